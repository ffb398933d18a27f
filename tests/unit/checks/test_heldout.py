"""Held-out passages of small pools: enough for an interval if the text allows it, and counted as they are used."""

from pathlib import Path

import pytest

from mixcpt.checks import questions
from mixcpt.checks.findings import Subject
from mixcpt.checks.heldout import MAX_DOCUMENTS, HeldOut, choose_heldout, read_small_pool
from mixcpt.config import AdaptConfig, BitsPerByteTask, CurationConfig, EvaluateConfig, FilesSource
from mixcpt.curation.pipeline import curate
from mixcpt.curation.records import Record
from mixcpt.evaluate.asking.items import heldout_items
from mixcpt.evaluate.guessing import MIN_PASSAGES
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.fingerprint import fingerprint
from tests.unit.checks.checked_models import warnings

PARAGRAPH = "The heron {0} stands in the river and waits for a fish near the old mill until the evening comes. " * 3


def write_documents(folder: Path, number: int, paragraphs: int) -> CurationConfig:
    folder.mkdir(exist_ok=True)
    for document in range(number):
        text = "\n\n".join(PARAGRAPH.format(f"{document}-{part}") for part in range(paragraphs))
        (folder / f"{document}.md").write_text(text)
    return CurationConfig(sources=(FilesSource(name="mine", pool="domain", paths=(str(folder),)),))


def chosen(config: CurationConfig) -> tuple[list[Record], HeldOut | None]:
    records = read_small_pool(config, "domain")
    return records, choose_heldout(records, 0)


def bits(found: HeldOut) -> BitsPerByteTask:
    return BitsPerByteTask(
        name="bits", group="domain", heldout_pool="domain", passage_characters=found.passage_characters
    )


@pytest.mark.parametrize("number", [1, 3, 7, 12, 19, 20, 25, 30, 49, 60, 120, MAX_DOCUMENTS])
def test_chosen_share_holds_out_enough_passages_and_at_most_a_fifth(tmp_path: Path, number: int) -> None:
    config = write_documents(tmp_path / "docs", number, paragraphs=60)
    records, found = chosen(config)
    assert found
    assert 0.05 <= found.fraction <= 0.2
    settings = config.model_copy(update={"heldout_fraction": found.fraction})
    corpus = curate(settings, seed=0, store=ArtifactStore(tmp_path / "store"))
    items = heldout_items(bits(found), corpus)
    assert len(items) == len({item.cluster for item in items}) == found.num_passages >= MIN_PASSAGES
    length = sum(len(item.prompt) for item in items)
    is_default = found.fraction == CurationConfig().heldout_fraction  # its draw of few documents can be larger
    assert is_default or length <= 0.21 * sum(len(record.text) for record in records)


def test_whole_documents_are_preferred_to_passages(tmp_path: Path) -> None:
    _, found = chosen(write_documents(tmp_path / "docs", 120, paragraphs=1))
    assert found and not found.passage_characters
    assert found.num_documents == found.num_passages >= MIN_PASSAGES


def test_documents_too_few_and_short_keep_the_default(tmp_path: Path) -> None:
    assert chosen(write_documents(tmp_path / "docs", 25, paragraphs=1))[1] is None


def test_many_documents_and_broken_paths_are_not_read(tmp_path: Path) -> None:
    assert read_small_pool(write_documents(tmp_path / "docs", MAX_DOCUMENTS + 1, paragraphs=1), "domain") == []
    missing = CurationConfig(sources=(FilesSource(name="mine", pool="domain", paths=(str(tmp_path / "no"),)),))
    assert read_small_pool(missing, "domain") == []


def test_passages_of_a_document_are_its_whole_text(tmp_path: Path) -> None:
    config = write_documents(tmp_path / "docs", 25, paragraphs=8)
    corpus = curate(config, seed=0, store=ArtifactStore(tmp_path / "store"))
    whole = heldout_items(BitsPerByteTask(name="bits", group="domain", heldout_pool="domain"), corpus)
    parts = heldout_items(
        BitsPerByteTask(name="bits", group="domain", heldout_pool="domain", passage_characters=500), corpus
    )
    assert len(parts) > len(whole)
    assert all(len(item.prompt) >= 490 for item in parts)
    for item in whole:
        assert [part.prompt for part in parts if part.id.startswith(f"{item.id}#")]
    texts = ["".join(" ".join(item.prompt for item in items).split()) for items in (whole, parts)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("place", [{"path": "shipped"}, {"heldout_pool": "instructions"}])
def test_passages_of_anything_but_documents_are_refused(place: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="passage_characters cuts held-out documents"):
        BitsPerByteTask.model_validate({"name": "bits", "group": "general", "passage_characters": 500, **place})


def test_length_of_passages_changes_no_fingerprint_while_it_is_unset() -> None:
    task = BitsPerByteTask(name="bits", group="domain", heldout_pool="domain")
    assert "passage_characters" not in task.identity()
    assert fingerprint(task) != fingerprint(task.model_copy(update={"passage_characters": 500}))


def test_few_held_out_passages_are_warned_about_with_settings_that_suffice(tmp_path: Path) -> None:
    curation = write_documents(tmp_path / "docs", 30, paragraphs=10)
    task = BitsPerByteTask(name="bits", group="domain", heldout_pool="domain")
    general = BitsPerByteTask(name="general_text", group="general", path="shipped")
    (warning,) = warnings(questions.check, subject(curation, task, general))
    assert warning.startswith("evaluate.tasks[0]: bits measures ")
    _, found = chosen(curation)
    assert found
    assert f"curation.heldout_fraction: {found.fraction:g}" in warning
    assert f"evaluate.tasks[0].passage_characters: {found.passage_characters}" in warning
    followed = curation.model_copy(update={"heldout_fraction": found.fraction})
    assert warnings(questions.check, subject(followed, bits(found), general)) == []


@pytest.mark.parametrize("has_general", [True, False])
def test_forgetting_is_unmeasured_only_without_any_general_task(tmp_path: Path, has_general: bool) -> None:
    curation = write_documents(tmp_path / "docs", 3, paragraphs=40)
    _, found = chosen(curation)
    assert found
    general = BitsPerByteTask(name="general_text", group="general", path="shipped")
    followed = curation.model_copy(update={"heldout_fraction": found.fraction})
    shown = warnings(questions.check, subject(followed, bits(found), *([general] if has_general else [])))
    assert any("forgetting is not measured" in warning for warning in shown) != has_general


def subject(curation: CurationConfig, *tasks: BitsPerByteTask) -> Subject:
    evaluate = EvaluateConfig(tasks=tasks, headline_domain=tasks[0].name, headline_general="")
    return Subject(AdaptConfig().model_copy(update={"curation": curation, "evaluate": evaluate}), None)
