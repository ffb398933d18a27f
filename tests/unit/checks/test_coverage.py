"""Text that the tokenizer of the model loses is refused or warned about, by source."""

import json
import re
from pathlib import Path

import pytest

from mixcpt.checks import coverage
from mixcpt.checks.findings import Subject
from mixcpt.config import AdaptConfig, CurationConfig, FilesSource
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
