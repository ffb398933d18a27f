"""Task files in all layouts become items, and rejected records are reported."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mixcpt.config import BitsPerByteTask, ClosedWorldTask, EvaluateConfig, MultipleChoiceTask, Task
from mixcpt.errors import DataError
from mixcpt.evaluate import check_tasks
from mixcpt.evaluate.asking.items import Item
from mixcpt.evaluate.asking.tasks import TaskItems, read_tasks
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey

NO_CORPUS = ArtifactRef("corpus", "0" * 64, "0" * 64, "/nowhere")


def test_choices_answer_given_by_index_letter_or_text_finds_the_same_gold(tmp_path: Path) -> None:
    records = [
        {"question": "q", "choices": ["red", "blue", "green"], "answer": answer}
        for answer in (1, "B", "blue", " blue ", 0)
    ]
    assert [item.gold for item in read(write(tmp_path, records)).items] == [*["blue"] * 4, "red"]


def test_choices_answer_letter_that_is_itself_a_choice_is_taken_as_text(tmp_path: Path) -> None:
    path = write(tmp_path, [{"question": "q", "choices": ["C", "A", "B"], "answer": "A"}])
    assert read(path).items[0].gold == "A"


def test_choices_labelled_as_in_arc_finds_gold_by_label(tmp_path: Path) -> None:
    record = {"stem": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}
    asked = read(write(tmp_path, [record]), question_field="stem", answer_field="answerKey")
    assert (asked.items[0].gold, asked.items[0].choices) == ("y", ("x", "y"))


def test_choices_prompt_is_cued_once(tmp_path: Path) -> None:
    common = {"choices": ["x", "y"], "answer": 0}
    path = write(tmp_path, [{"question": "Why? ", **common}, {"question": "Question: Why?\nAnswer:", **common}])
    assert [item.prompt for item in read(path).items] == ["Question: Why?\nAnswer:"] * 2


def test_choices_distractors_are_shuffled_by_item_name_only(tmp_path: Path) -> None:
    records = [{"id": f"i{n}", "question": "q", "right": "r", "w1": "a", "w2": "b", "w3": "c"} for n in range(200)]
    fields = {"answer_field": "right", "distractor_fields": ("w1", "w2", "w3")}
    whole = read(write(tmp_path, records), **fields)
    places = [item.choices.index("r") for item in whole.items]
    assert all(sorted(item.choices) == ["a", "b", "c", "r"] for item in whole.items)
    assert all(30 <= places.count(place) <= 70 for place in range(4))
    reversed_file = read(write(tmp_path, records[::-1], "other.jsonl"), seed=9, **fields)
    assert {item.id: item for item in reversed_file.items} == {item.id: item for item in whole.items}


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        ("{broken", "(line)", "is not JSON"),
        ("[1, 2]", "(line)", "contains a list"),
        ({"choices": ["a", "b"], "answer": 0}, "question", "is missing; the record has: choices, answer"),
        ({"question": "  ", "choices": ["a", "b"], "answer": 0}, "question", "is empty"),
        ({"question": 7, "choices": ["a", "b"], "answer": 0}, "question", "is a int"),
        ({"question": "\ud800", "choices": ["a", "b"], "answer": 0}, "question", "half a character"),
        ({"question": "q", "choices": "ab", "answer": 0}, "choices", "not a list of two"),
        ({"question": "q", "choices": ["a"], "answer": 0}, "choices", "not a list of two"),
        ({"question": "q", "choices": ["a", ""], "answer": 0}, "choices", "is empty"),
        ({"question": "q", "choices": ["a", "a", "b"], "answer": 0}, "choices", "more than once"),
        ({"question": "q", "choices": ["a", "b"]}, "answer", "is missing"),
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, "answer", "is 2, but there are 2 choices"),
        ({"question": "q", "choices": ["a", "b"], "answer": -1}, "answer", "is -1"),
        ({"question": "q", "choices": ["a", "b"], "answer": "C"}, "answer", "neither a choice nor one of A, B"),
        ({"question": "q", "choices": ["a", "b"], "answer": True}, "answer", "is a bool"),
        ({"id": "good", "question": "q", "choices": ["a", "b"], "answer": 0}, "id", "earlier record"),
    ],
)
def test_choices_bad_record_is_quarantined_with_its_reason(
    tmp_path: Path, record: Any, field: str, reason: str
) -> None:
    good = {"id": "good", "question": "q", "choices": ["a", "b"], "answer": 0}
    asked = read(write(tmp_path, [good, record]))
    assert [item.id for item in asked.items] == ["good"]
    (bad,) = asked.quarantined
    assert (bad.line, bad.field) == (2, field)
    assert reason in bad.reason


def test_choices_file_without_usable_record_is_refused_with_file_line_and_field(tmp_path: Path) -> None:
    path = write(tmp_path, [{"query": "q", "choices": ["a", "b"], "answer": 0}] * 3)
    with pytest.raises(DataError, match=r"items\.jsonl: none of 3 records.*line 1, field question: is missing"):
        read(path)


@pytest.mark.parametrize("name", ["empty.jsonl", "absent.jsonl", "broken.jsonl.gz"])
def test_choices_unreadable_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    if "absent" not in name:
        (tmp_path / name).write_bytes(b"no gzip" if name.endswith("gz") else b"\n\n")
    with pytest.raises(DataError, match=name):
        read(tmp_path / name)


def test_choices_gzip_reads_as_the_plain_file(tmp_path: Path) -> None:
    path = write(tmp_path, [{"id": n, "question": f"q{n}", "choices": ["a", "b"], "answer": 0} for n in range(3)])
    packed = tmp_path / "items.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read(packed).digest == read(path).digest


def test_limit_draws_by_seed_and_a_larger_limit_adds_to_a_smaller(tmp_path: Path) -> None:
    path = write(tmp_path, [{"id": n, "question": "q", "choices": ["a", "b"], "answer": 0} for n in range(200)])
    drawn = {
        (limit, seed): [int(item.id) for item in read(path, seed=seed, limit=limit).items]
        for limit, seed in ((20, 0), (50, 0), (20, 1), (0, 0))
    }
    assert [len(ids) for ids in drawn.values()] == [20, 50, 20, 200]
    assert set(drawn[20, 0]) < set(drawn[50, 0])
    assert drawn[20, 0] != drawn[20, 1]
    assert drawn[20, 0] == sorted(drawn[20, 0])
    assert max(drawn[20, 0]) >= 100  # a draw, not the file's beginning


def test_texts_txt_file_is_cut_at_blank_lines_and_loses_nothing(tmp_path: Path) -> None:
    paragraphs = [f"paragraph {n} " + "word " * 100 for n in range(20)]
    path = tmp_path / "book.txt"
    path.write_bytes("\r\n\r\n".join(paragraphs).encode())
    (asked,) = read_all(BitsPerByteTask(name="book", group="general", path=str(path)))
    assert asked.metric == "bits_per_byte"
    assert all(len(item.prompt) >= 2000 for item in asked.items[:-1])
    assert len(asked.items) > 3
    assert " ".join(" ".join(item.prompt for item in asked.items).split()) == " ".join(" ".join(paragraphs).split())


def test_texts_jsonl_takes_the_text_field(tmp_path: Path) -> None:
    path = write(tmp_path, [{"id": "a", "text": "one"}, {"id": "b", "body": "two"}, {"text": "three"}])
    (asked,) = read_all(BitsPerByteTask(name="texts", group="general", path=str(path)))
    assert asked.items == (Item(id="a", prompt="one"), Item(id="items.jsonl:3", prompt="three"))
    assert [bad.field for bad in asked.quarantined] == ["text"]


def test_texts_heldout_takes_one_pool_and_refuses_an_empty_one(tmp_path: Path) -> None:
    corpus = heldout_corpus(tmp_path, {"d1": ("domain", "one"), "g1": ("general", "two")})
    asked = read_tasks(config_of(BitsPerByteTask(name="bits", group="general", heldout_pool="general")), corpus, seed=0)
    assert asked[0].items == (Item(id="g1", prompt="two"),)
    empty = heldout_corpus(tmp_path, {"d1": ("domain", "one")})
    with pytest.raises(DataError, match=r"bits: no document of the general pool is held out(.|\n)*heldout_fraction"):
        read_tasks(config_of(BitsPerByteTask(name="bits", group="general", heldout_pool="general")), empty, seed=0)


def test_texts_heldout_takes_one_source_of_a_pool(tmp_path: Path) -> None:
    corpus = heldout_corpus(tmp_path, {"a1": ("domain", "one"), "b1": ("domain", "two"), "a2": ("domain", "three")})
    task = BitsPerByteTask(name="bits", group="domain", heldout_pool="domain", source="domain-a")
    (asked,) = read_tasks(config_of(task), corpus, seed=0)
    assert [item.id for item in asked.items] == ["a1", "a2"]
    missing = task.model_copy(update={"source": "domain-c"})
    with pytest.raises(DataError, match="bits: no document of domain-c is held out"):
        read_tasks(config_of(missing), corpus, seed=0)


def test_closed_world_asks_one_item_a_fact_with_a_one_word_answer() -> None:
    asked = read_all(ClosedWorldTask(limit=30), ClosedWorldTask(name="memory", form="memory", limit=30))
    for task in asked:
        assert len({item.id for item in task.items}) == 30
        assert all(item.prompt and len(item.gold.split()) == 1 and not item.choices for item in task.items)


def test_check_tasks_names_key_path_file_and_field(tmp_path: Path) -> None:
    good = write(tmp_path, [{"question": "q", "choices": ["a", "b"], "answer": 0}])
    wrong = write(tmp_path, [{"query": "q", "choices": ["a", "b"], "answer": 0}], "wrong.jsonl")
    (tmp_path / "book.pdf").write_text("a,b\n")
    paths = [good, tmp_path / "absent.jsonl", wrong, tmp_path / "book.pdf"]
    tasks = [MultipleChoiceTask(name=f"t{n}", group="domain", path=str(path)) for n, path in enumerate(paths)]
    texts = BitsPerByteTask(name="t4", group="domain", path=str(tmp_path / "absent.txt"))
    problems = check_tasks(config_of(*tasks, texts, ClosedWorldTask(name="t5")))
    assert [problem.split(":")[0] for problem in problems] == [f"evaluate.tasks[{n}].path" for n in (1, 2, 3, 4)]
    assert "absent.jsonl" in problems[0]
    assert "wrong.jsonl" in problems[1]
    assert "field question: is missing" in problems[1]
    assert "book.pdf is not a file of records" in problems[2]


def test_evaluate_package_imports_without_torch() -> None:
    code = (
        "import sys, mixcpt.evaluate; print([m for m in ('torch', 'lm_eval', 'scipy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def read(path: Path, *, seed: int = 0, **settings: Any) -> TaskItems:
    task = MultipleChoiceTask(name="choices", group="domain", path=str(path), **settings)
    return read_tasks(config_of(task), NO_CORPUS, seed=seed)[0]


def read_all(*tasks: Task) -> list[TaskItems]:
    return read_tasks(config_of(*tasks), NO_CORPUS, seed=0)


def config_of(*tasks: Task) -> EvaluateConfig:
    return EvaluateConfig(tasks=tasks, headline_domain=tasks[0].name, headline_general=tasks[0].name)


def write(folder: Path, records: list[Any], name: str = "items.jsonl") -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def heldout_corpus(folder: Path, documents: dict[str, tuple[str, str]]) -> ArtifactRef:
    rows = [
        {"doc_id": name, "source": f"{pool}-{name[0]}", "pool": pool, "text": text}
        for name, (pool, text) in documents.items()
    ]

    def build(directory: Path) -> dict[str, float]:
        pd.DataFrame(rows).to_parquet(directory / "heldout.parquet")
        return {}

    return ArtifactStore(folder / "store").produce(StageKey("corpus", 1, list(documents)), build)
