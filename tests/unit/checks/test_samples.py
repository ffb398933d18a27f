"""Alignment without a sample that it can train on is refused before any work, with the number per reason."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mixcpt.align.usable import require_usable
from mixcpt.checks import samples
from mixcpt.checks.findings import Subject
from mixcpt.config import AdaptConfig, AlignConfig, CurationConfig, FilesSource, Pool, SelectionConfig
from mixcpt.curation.pipeline import curate
from mixcpt.errors import DataError
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import ModelRef
from tests.unit.checks.checked_models import problems, warnings

SHORT = {"prompt": "who keeps the tower ?", "response": "the owl ."}
LONG = {"prompt": "the owl keeps the tower . " * 60, "response": "the owl ."}
EQUAL = {"prompt": "who ?", "chosen": "the owl .", "rejected": "the owl . \n"}


def subject(base: ModelRef, folder: Path, pool: Pool, rows: list[dict[str, str]], max_tokens: int = 40) -> Subject:
    path, documents = folder / "rows.jsonl", folder / "docs.txt"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    documents.write_text("the owl keeps an old tower , and the heron likes it .")
    sources = (
        FilesSource(name="docs", pool="domain", paths=(str(documents),)),
        FilesSource(name="rows", pool=pool, paths=(str(path),)),
    )
    wanted: dict[str, Any] = {"num_instructions": 0, "num_preferences": 0, f"num_{pool}": 5}
    align = AlignConfig(selection=SelectionConfig(max_tokens=max_tokens, **wanted))
    curation = CurationConfig(sources=sources, deduplicate=False)
    return Subject(AdaptConfig().model_copy(update={"curation": curation, "align": align}), base)


def test_instructions_that_are_all_too_long_are_counted_with_the_shortest(tiny_model: ModelRef, tmp_path: Path) -> None:
    (problem,) = problems(samples.check, subject(tiny_model, tmp_path, "instructions", [LONG] * 3))
    assert problem.startswith("align.selection.num_instructions: sft has no instructions to train on: 3 of 3")
    assert re.search(r"longer than 40 tokens \(align.selection.max_tokens\); the shortest has \d{3}", problem)


def test_preferences_that_differ_only_in_space_are_refused(tiny_model: ModelRef, tmp_path: Path) -> None:
    (problem,) = problems(samples.check, subject(tiny_model, tmp_path, "preferences", [EQUAL] * 4))
    assert "4 of 4 preferences have answers that differ only in white space" in problem
    assert "align.selection.num_preferences to 0" in problem


def test_one_usable_sample_among_few_is_no_problem_and_few_among_many_a_warning(
    tiny_model: ModelRef, tmp_path: Path
) -> None:
    assert list(samples.check(subject(tiny_model, tmp_path, "instructions", [SHORT, LONG]))) == []
    few = subject(tiny_model, tmp_path, "instructions", [SHORT, *[LONG] * 20])
    assert problems(samples.check, few) == []
    assert "only 1 of the first 21 instructions" in warnings(samples.check, few)[0]


def test_offered_limit_is_accepted(tiny_model: ModelRef, tmp_path: Path) -> None:
    row = {"prompt": "the owl keeps the tower . " * 8, "response": "the owl ."}
    (problem,) = problems(samples.check, subject(tiny_model, tmp_path, "instructions", [row]))
    offered = re.search(r"max_tokens to (\d+) or more", problem)
    assert offered
    checked = subject(tiny_model, tmp_path, "instructions", [row], max_tokens=int(offered[1]))
    assert problems(samples.check, checked) == []


def test_corpus_without_a_usable_sample_is_refused_after_curation(tiny_model: ModelRef, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    good = subject(tiny_model, tmp_path, "instructions", [LONG, SHORT])
    require_usable(good.config, tiny_model, curate(good.config.curation, seed=0, store=store))
    bad = subject(tiny_model, tmp_path, "instructions", [LONG, LONG])
    corpus = curate(bad.config.curation, seed=0, store=store)
    with pytest.raises(DataError, match="2 of 2 instructions are longer than 40 tokens"):
        require_usable(bad.config, tiny_model, corpus)
