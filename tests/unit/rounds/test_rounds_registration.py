"""Registered corpora: copied once, without known documents, measurable, and never registered twice."""

import json
from pathlib import Path

import pytest

from mixcpt.config import CorpusConfig, FilesSource, MultipleChoiceTask
from mixcpt.errors import DataError
from mixcpt.rounds.registration import NothingNew, list_deliveries, register
from mixcpt.store.artifacts import ArtifactStore


def documents(folder: Path, numbers: range, name: str = "documents.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    lines = (json.dumps({"id": f"d{n}", "text": f"Document {n} tells of the number {n}."}) for n in numbers)
    (folder / name).write_text("\n".join(lines))
    return folder


def corpus(folder: Path, name: str = "numbers", tasks: tuple[MultipleChoiceTask, ...] = ()) -> CorpusConfig:
    return CorpusConfig(source=FilesSource(name=name, pool="domain", paths=(str(folder),)), tasks=tasks, note="a test")


def test_registered_corpus_stays_when_its_files_go(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    folder = documents(tmp_path / "given", range(100))
    made = register(corpus(folder), store)
    (folder / "documents.jsonl").unlink()
    (found,) = list_deliveries(store)
    assert (found.name, found.note, found.tasks) == (made.name, "a test", made.tasks)
    assert found.num_documents + found.num_heldout == 100
    assert found.num_heldout > 0
    assert [task.name for task in found.tasks] == ["numbers_bits_per_byte"]
    assert all(Path(path).is_file() for path in found.source.paths)


def test_register_the_same_content_again_returns_the_first_delivery(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    first = register(corpus(documents(tmp_path / "given", range(40))), store)
    assert register(corpus(documents(tmp_path / "moved", range(40))), store).ref == first.ref
    assert len(list_deliveries(store)) == 1


def test_register_a_grown_folder_holds_only_its_new_documents(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    register(corpus(documents(tmp_path / "given", range(40))), store)
    second = register(corpus(documents(tmp_path / "given", range(40, 70), "more.jsonl")), store)
    assert second.name == "numbers-2"
    assert second.num_documents + second.num_heldout == 30
    assert second.ref.record["metrics"]["removed"] == 40
    ids = {json.loads(line)["id"] for line in second.ref.file("heldout.jsonl").read_text().splitlines()}
    assert ids <= {f"d{n}" for n in range(40, 70)}


def test_register_only_known_documents_under_another_name_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    register(corpus(documents(tmp_path / "given", range(40))), store)
    with pytest.raises(NothingNew, match="all 25 are registered already"):
        register(corpus(documents(tmp_path / "part", range(10, 35)), "others"), store)


def test_register_copies_questions_and_names_tasks_after_the_corpus(tmp_path: Path) -> None:
    questions = tmp_path / "asked.jsonl"
    questions.write_text(json.dumps({"question": "Which?", "choices": ["a", "b"], "answer": 0, "doc_id": "d1"}))
    task = MultipleChoiceTask(name="choices", group="domain", path=str(questions))
    folder = documents(tmp_path / "given", range(3))
    made = register(corpus(folder, "3 Numbers".replace(" ", "-"), (task,)), ArtifactStore(tmp_path / "store"))
    questions.unlink()
    (found,) = made.tasks
    assert found.name == "corpus_3_numbers_choices"
    assert isinstance(found, MultipleChoiceTask)
    assert "Which?" in Path(found.path).read_text()


@pytest.mark.parametrize(("count", "reason"), [(3, "learning it cannot be measured"), (0, "no document of the domain")])
def test_register_a_corpus_that_cannot_be_measured_is_refused(tmp_path: Path, count: int, reason: str) -> None:
    folder = documents(tmp_path / "given", range(count))
    (folder / "broken.jsonl").write_text("{")
    store = ArtifactStore(tmp_path / "store")
    with pytest.raises(DataError, match=reason):
        register(corpus(folder), store)
    assert list_deliveries(store) == []
