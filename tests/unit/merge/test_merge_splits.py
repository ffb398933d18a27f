"""A sweep needs items of each task to select with and to report; an empty split is refused, and the remedy works."""

import json
import re
from pathlib import Path

import pytest

from mixcpt.config import EvaluateConfig, MultipleChoiceTask, SplitConfig
from mixcpt.errors import DataError
from mixcpt.merge.splits import require_splits
from mixcpt.store.artifacts import ArtifactRef

NO_CORPUS = ArtifactRef("corpus", "0" * 64, "0" * 64, "/nowhere")


def evaluation(folder: Path, *passages: str, splits: SplitConfig | None = None) -> EvaluateConfig:
    """Return one task about each group of passages, which are letters."""
    tasks = []
    for number, names in enumerate(passages):
        path = folder / f"{number}.jsonl"
        records = [{"question": name, "choices": ["a", "b"], "answer": "a", "doc_id": name} for name in names]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        tasks.append(MultipleChoiceTask(name=f"asked_{number}", group="domain", path=str(path)))
    headline = tasks[0].name
    return EvaluateConfig(
        tasks=tuple(tasks), headline_domain=headline, headline_general="", splits=splits or SplitConfig()
    )


@pytest.mark.parametrize("passages", [("ab",), ("abc",), ("abcdefgh", "xyz"), ("ab", "abcdefghijkl")])
@pytest.mark.parametrize("splits", [SplitConfig(probe_fraction=0.9, selection_fraction=0.05),
                                    SplitConfig(probe_fraction=0.0, selection_fraction=0.001)])  # fmt: skip
def test_remedy_of_an_empty_split_works(tmp_path: Path, passages: tuple[str, ...], splits: SplitConfig) -> None:
    with pytest.raises(DataError, match=r"none of its \d+ passages? is in the split (selection|report)") as refused:
        require_splits(evaluation(tmp_path, *passages, splits=splits), NO_CORPUS, seed=0)
    assert "evaluate.split:" not in refused.value.hint
    probe, selection = map(float, re.findall(r"_fraction: ([\d.]+)", refused.value.hint))
    mended = SplitConfig(probe_fraction=probe, selection_fraction=selection)
    require_splits(evaluation(tmp_path, *passages, splits=mended), NO_CORPUS, seed=0)


def test_task_about_one_passage_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        require_splits(evaluation(tmp_path, "abcdefghijkl", "x"), NO_CORPUS, seed=0)
    assert "give asked_1 items about two passages or more, or remove the task" in refused.value.hint


def test_tasks_with_enough_passages_are_accepted(tmp_path: Path) -> None:
    require_splits(evaluation(tmp_path, "abcdefghijkl", "mnopqrstuvwxyz"), NO_CORPUS, seed=0)
