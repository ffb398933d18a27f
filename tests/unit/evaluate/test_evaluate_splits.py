"""Splits for steering, selection and reports share no passage, whatever the task or the order."""

import json
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from mixcpt.config import ClosedWorldTask, EvaluateConfig, MultipleChoiceTask, Split, SplitConfig
from mixcpt.errors import DataError
from mixcpt.evaluate.asking.items import Item
from mixcpt.evaluate.asking.tasks import TaskItems, read_tasks, split_of
from mixcpt.store.artifacts import ArtifactRef

NO_CORPUS = ArtifactRef("corpus", "0" * 64, "0" * 64, "/nowhere")
SPLITS: tuple[Split, ...] = ("probe", "selection", "report")


def test_splits_have_about_their_shares() -> None:
    config = SplitConfig(probe_fraction=0.1, selection_fraction=0.25)
    counts = Counter(split_of(f"passage {number}", config) for number in range(20_000))
    assert counts["probe"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert counts["selection"] / 20_000 == pytest.approx(0.25, abs=0.01)


def test_splits_that_leave_nothing_to_report_are_refused() -> None:
    with pytest.raises(ValueError, match="so that some questions are reported"):
        SplitConfig(probe_fraction=0.5, selection_fraction=0.5)


def test_closed_world_splits_share_no_entity_and_leave_no_question_out() -> None:
    tasks = (ClosedWorldTask(name="use"), ClosedWorldTask(name="memory", form="memory"))
    parts = {split: asked(*tasks, split=split) for split in ("all", *SPLITS)}
    passages = {split: {item.passage for item in chain.from_iterable(parts[split])} for split in SPLITS}
    assert not passages["probe"] & passages["selection"]
    assert not (passages["probe"] | passages["selection"]) & passages["report"]
    for task in range(2):
        together = list(chain.from_iterable(parts[split][task] for split in SPLITS))
        assert sorted(item.id for item in together) == sorted(item.id for item in parts["all"][task])
    assert {item.passage for item in parts["report"][0]} == {item.passage for item in parts["report"][1]}


def test_questions_about_one_document_stay_together(tmp_path: Path) -> None:
    rows = [
        {"id": f"q{n}", "doc_id": f"d{n // 5}", "question": "q", "choices": ["a", "b"], "answer": 0} for n in range(200)
    ]
    path = tmp_path / "keyed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = MultipleChoiceTask(name="keyed", group="domain", path=str(path))
    for split in SPLITS:
        (items,) = asked(task, split=split)
        assert set(Counter(item.passage for item in items).values()) == {5}


def test_limit_draws_from_the_split(tmp_path: Path) -> None:
    (few,) = asked(ClosedWorldTask(name="use", limit=20), split="selection")
    (whole,) = asked(ClosedWorldTask(name="use"), split="selection")
    assert len(few) == 20
    assert {item.id for item in few} < {item.id for item in whole}


def test_examples_are_equal_in_every_split_and_their_passages_are_excluded(tmp_path: Path) -> None:
    rows = [
        {"id": f"q{n}", "doc_id": f"d{n // 4}", "question": f"q {n}", "choices": ["a", "b"], "answer": 0}
        for n in range(200)
    ]
    path = tmp_path / "keyed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = MultipleChoiceTask(name="keyed", group="domain", path=str(path), num_fewshot=3)
    read = {split: read_all(task, split=split)[0] for split in ("all", *SPLITS)}
    examples = read["all"].examples
    assert len(examples) == len({example.passage for example in examples}) == 3
    for split in ("all", *SPLITS):
        assert read[split].examples == examples
        assert not {example.passage for example in examples} & {item.passage for item in read[split].items}
    assert len(read["all"].items) == 200 - 3 * 4


def test_split_without_items_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"id": "q", "question": "q", "choices": ["a", "b"], "answer": 0}) + "\n")
    task = MultipleChoiceTask(name="keyed", group="domain", path=str(path))
    empty = next(split for split in SPLITS if split_of("q", SplitConfig()) != split)
    with pytest.raises(DataError, match=f"none of its 1 items is in the split {empty}.*\n.*evaluate.split: all"):
        asked(task, split=empty)


def asked(*tasks: ClosedWorldTask | MultipleChoiceTask, split: Split) -> list[tuple[Item, ...]]:
    return [task.items for task in read_all(*tasks, split=split)]


def read_all(*tasks: ClosedWorldTask | MultipleChoiceTask, split: Split) -> list[TaskItems]:
    config = EvaluateConfig(tasks=tasks, headline_domain=tasks[0].name, headline_general=tasks[0].name, split=split)
    return read_tasks(config, NO_CORPUS, seed=0)
