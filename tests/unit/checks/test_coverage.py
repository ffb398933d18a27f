"""Text that the tokenizer of the model loses is refused or warned about, by source."""

import json
import re
from pathlib import Path

import pytest

from mixcpt.checks import coverage
from mixcpt.checks.findings import Subject
from mixcpt.config import AdaptConfig, BitsPerByteTask, CurationConfig, EvaluateConfig, FilesSource
from mixcpt.curation.sources import curation_key
from mixcpt.mixture.lost_text import lost_text
from mixcpt.store.fingerprint import fingerprint
from tests.unit.checks.checked_models import problems, warnings
from tests.unit.tokenizers_of_every_kind import TEXT, write_tokenizer


def subject(folder: Path, family: str, text: str, limit: float = 0.01) -> Subject:
    path = folder / "docs.jsonl"
    path.write_text(json.dumps({"text": text}))
    source = FilesSource(name="mine", pool="domain", paths=(str(path),))
    curation = CurationConfig(sources=(source,), max_lost_fraction=limit)
    config = AdaptConfig().model_copy(update={"curation": curation})
    return Subject(config, write_tokenizer(folder / family, family, has_bos=True))


def test_text_in_a_script_that_the_tokenizer_lacks_is_refused_with_examples(tmp_path: Path) -> None:
    (problem,) = problems(coverage.check, subject(tmp_path, "metaspace", "глава " * 20))
    assert problem.startswith("curation.sources[0]: the tokenizer of base.model cannot represent 100.0% ")
    assert "а" in problem
    assert "max_lost_fraction" not in problem


@pytest.mark.parametrize("text", [TEXT, "глава " * 20, "灯塔 🦉 </s> \ufeff é" * 5])
def test_byte_level_tokenizer_loses_nothing(tmp_path: Path, text: str) -> None:
    assert list(coverage.check(subject(tmp_path, "byte_level", text))) == []


def test_few_lost_characters_are_a_warning(tmp_path: Path) -> None:
    checked = subject(tmp_path, "metaspace", TEXT * 3 + "Ж")
    assert problems(coverage.check, checked) == []
    (warning,) = warnings(coverage.check, checked)
    assert "example Ж" in warning


def test_shares_above_the_limit_never_look_equal_to_it(tmp_path: Path) -> None:
    checked = subject(tmp_path, "metaspace", TEXT * 3 + "Ж")
    share = lost_text(checked.tokenizer, [TEXT * 3 + "Ж"]).share
    (problem,) = problems(coverage.check, subject(tmp_path, "metaspace", TEXT * 3 + "Ж", limit=share * 0.999))
    shown = re.findall(r"[\d.]+%", problem)
    assert len(set(shown)) == 2


def test_lower_casing_is_a_warning(tmp_path: Path) -> None:
    checked = subject(tmp_path, "word_piece", "THE OWL KEEPS AN OLD TOWER")
    assert problems(coverage.check, checked) == []
    assert "changes case or accents" in warnings(coverage.check, checked)[0]


def test_the_offered_limit_is_accepted(tmp_path: Path) -> None:
    text = TEXT + "Ж" * 8
    (problem,) = problems(coverage.check, subject(tmp_path, "metaspace", text))
    offered = float(problem.rpartition(" to ")[2])
    assert problems(coverage.check, subject(tmp_path, "metaspace", text, offered)) == []


def test_limit_is_part_of_no_corpus_and_its_default_of_no_fingerprint() -> None:
    default, other = CurationConfig(), CurationConfig(max_lost_fraction=0.5)
    assert curation_key(default, [], 0) == curation_key(other, [], 0)
    assert "max_lost_fraction" not in json.dumps(AdaptConfig().identity())
    assert fingerprint(default) != fingerprint(other)


def test_held_out_text_that_evaluation_would_refuse_is_refused_before(tmp_path: Path) -> None:
    measured = with_task(subject(tmp_path, "metaspace", "глава дома\n\n" * 200, limit=1.0))
    (problem,) = problems(coverage.check, measured)
    assert problem.startswith("evaluate.tasks[0].heldout_pool: bits measures held-out text of curation.sources[0] (")
    assert "docs.jsonl" in problem and "(at most 20%)" in problem
    assert "remove the task and set evaluate.headline_domain" in problem


def test_loss_is_reported_once_if_the_source_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(coverage.check, with_task(subject(tmp_path, "metaspace", "глава дома\n\n" * 200)))
    assert problem.startswith("curation.sources[0]: ")


def test_readable_held_out_text_is_accepted(tmp_path: Path) -> None:
    assert problems(coverage.check, with_task(subject(tmp_path, "metaspace", TEXT * 30, limit=1.0))) == []


def with_task(checked: Subject) -> Subject:
    """Return a run that measures only held-out text of the domain."""
    task = BitsPerByteTask(name="bits", group="domain", heldout_pool="domain")
    evaluate = EvaluateConfig(tasks=(task,), headline_domain="bits", headline_general="")
    return Subject(checked.config.model_copy(update={"evaluate": evaluate}), checked.base)
