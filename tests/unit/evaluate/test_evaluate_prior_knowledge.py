"""Prior knowledge: questions get their own documents, and the comparison is paired by question."""

import json
from pathlib import Path

import pandas as pd
import pytest

from mixcpt.closed_world import items
from mixcpt.config import BitsPerByteTask, ClosedWorldTask, MultipleChoiceTask
from mixcpt.evaluate import PriorKnowledge, prior_knowledge
from mixcpt.evaluate.asking.items import Item
from mixcpt.evaluate.asking.tasks import TaskItems, open_book
from mixcpt.evaluate.statistics.estimates import Resampling
from mixcpt.report.verdict import prior_knowledge_verdict
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey

NO_CORPUS = ArtifactRef("corpus", "0" * 64, "0" * 64, "/nowhere")


def test_open_book_puts_a_document_that_states_the_answer_before_each_question() -> None:
    task = ClosedWorldTask(name="use")
    asked = tuple(
        Item(id=item.id, prompt=item.prompt, gold=item.answer, passage=f"{item.kind}/{item.entity}")
        for item in items(task)
    )
    (opened,) = open_book([TaskItems(task, asked)], NO_CORPUS)
    assert len(opened.items) == len(asked)
    for before, after, fact in zip(asked, opened.items, items(task), strict=True):
        document, _, question = after.prompt.rpartition("\n")
        assert (question, after.id, after.gold) == (before.prompt, before.id, before.gold)
        sentence = next(part for part in document.split(".") if fact.relation in part.replace(",", "").split())
        assert sentence.endswith(fact.answer)
        assert fact.entity in document


def test_open_book_finds_documents_by_the_ids_of_their_records(tmp_path: Path) -> None:
    corpus = corpus_of(
        tmp_path, [("books/d1", "domain", "One."), ("books/d2", "domain", "Two."), ("web/d3", "general", "3")]
    )
    task = MultipleChoiceTask(name="keyed", group="domain", path="x")
    asked = tuple(
        Item(id=f"q{n}", prompt="Why?", gold="a", choices=("a", "b"), passage=f"d{n}" if n < 4 else "")
        for n in range(1, 5)
    )
    (opened,) = open_book([TaskItems(task, asked)], corpus)
    assert [item.prompt for item in opened.items] == ["One.\nWhy?", "Two.\nWhy?"]


def test_open_book_leaves_out_general_tasks_texts_and_memory_sentences(tmp_path: Path) -> None:
    one = (Item(id="q", prompt="Why?", gold="a", passage="d1"),)
    tasks = [
        TaskItems(ClosedWorldTask(name="general", group="general", about="general_unasked"), one),
        TaskItems(ClosedWorldTask(name="memory", form="memory"), one),
        TaskItems(BitsPerByteTask(name="bits", group="domain", path="x"), one),
    ]
    assert open_book(tasks, corpus_of(tmp_path, [("books/d1", "domain", "One.")])) == []


def test_prior_knowledge_pairs_the_three_models_by_question(tmp_path: Path) -> None:
    names = [f"q{n}" for n in range(40)]
    closed = evaluation(tmp_path, "closed", dict.fromkeys([*names, "without a document"], 0.0))
    opened = evaluation(tmp_path, "opened", {name: float(n < 10) for n, name in enumerate(names)}, truncated=3)
    trained = evaluation(
        tmp_path, "trained", {name: float(n < 30) for n, name in enumerate(reversed([*names, "without a document"]))}
    )
    (found,) = prior_knowledge(closed, opened, trained, Resampling(0.95, 500), seed=0)
    assert (found.task, found.n, found.truncated) == ("use", 40, 3)
    assert (found.closed_book, found.open_book) == (0.0, 0.25)
    assert found.trained == 29 / 40  # q39 ... q11; the question without a document does not count
    assert found.low < found.trained - found.open_book < found.high


def test_prior_knowledge_of_equal_answers_has_an_interval_above_zero(tmp_path: Path) -> None:
    nothing = {f"q{number}": 0.0 for number in range(40)}
    closed, opened, trained = (evaluation(tmp_path, name, dict(nothing), truncated=0) for name in ("a", "b", "c"))
    (found,) = prior_knowledge(closed, opened, trained, Resampling(0.95, 500), seed=0)
    assert found.low == 0.0 < found.high == pytest.approx(1 - 0.025 ** (1 / 40))


@pytest.mark.parametrize(
    ("low", "high", "conclusion"),
    [
        (0.1, 0.3, "significantly more"),
        (-0.3, -0.1, "prompting or retrieval is already better"),
        (-0.1, 0.1, "prompting or retrieval may be as good"),
    ],
)
def test_prior_knowledge_verdict_compares_training_with_reading(low: float, high: float, conclusion: str) -> None:
    verdict = prior_knowledge_verdict(
        PriorKnowledge(
            task="domain_questions", n=90, closed_book=0.02, open_book=0.5, trained=0.6, low=low, high=high, truncated=0
        ),
        0.95,
    )
    assert conclusion in verdict
    assert "Of 90 domain questions, the base answers 2.0" in verdict


def corpus_of(folder: Path, documents: list[tuple[str, str, str]]) -> ArtifactRef:
    rows = [
        {"doc_id": name, "source": name.partition("/")[0], "pool": pool, "text": text} for name, pool, text in documents
    ]

    def build(directory: Path) -> dict[str, float]:
        pd.DataFrame(rows).to_parquet(directory / "documents.parquet")
        pd.DataFrame(rows[:0], columns=["doc_id", "source", "pool", "text"]).to_parquet(directory / "heldout.parquet")
        return {}

    return ArtifactStore(folder / "store").produce(StageKey("corpus", 1, [row["doc_id"] for row in rows]), build)


def evaluation(folder: Path, name: str, values: dict[str, float], *, truncated: int = 0) -> ArtifactRef:
    rows = [{"task": "use", "item_id": item, "passage": item, "value": value} for item, value in values.items()]
    score = {"task": "use", "group": "domain", "metric": "accuracy", "higher_is_better": True, "n": len(rows)}
    score |= {"value": sum(values.values()) / len(rows), "stderr": None, "truncated": truncated}

    def build(directory: Path) -> dict[str, float]:
        pd.DataFrame(rows).to_parquet(directory / "items.parquet")
        (directory / "summary.json").write_text(json.dumps({"form": "plain", "tasks": [score]}))
        return {}

    return ArtifactStore(folder / "store").produce(StageKey("evaluation", 1, name), build)
