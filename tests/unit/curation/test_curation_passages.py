"""Passages of a long document are held out if a pool has too few documents; other pools are as before."""

import json
from pathlib import Path

import pytest

from mixcpt.config import CurationConfig, FilesSource
from mixcpt.curation.passages import hold_out_passages
from mixcpt.curation.pipeline import clean
from mixcpt.curation.records import Record
from mixcpt.curation.report import Corpus
from mixcpt.curation.sources import open_sources
from mixcpt.curation.steps import split_heldout

SENTENCES = [f"In year {year} the keeper wrote down the {year % 7}th storm of that winter." for year in range(60)]


def record(name: str, text: str) -> Record:
    return Record(id=name, source="s", pool="domain", texts=(text,))


def curated(*paths: Path, fraction: float = 0.05, seed: int = 0) -> Corpus:
    source = FilesSource(name="mine", pool="domain", paths=tuple(map(str, paths)))
    config = CurationConfig(sources=(source,), heldout_fraction=fraction)
    return clean(config, open_sources(config), seed)


@pytest.mark.parametrize("border", ["\n\n", "\n", " ", "\n \n"])
def test_passages_and_the_rest_are_the_whole_document(border: str) -> None:
    text = border.join(SENTENCES)
    for seed in range(20):
        passages = hold_out_passages([record("a", text)], 0.05, seed)
        found = [
            sentence
            for part in [*passages.training, *passages.heldout]
            for sentence in SENTENCES
            if sentence in part.text
        ]
        assert sorted(found) == sorted(SENTENCES)
        assert passages.training
        held = sum(len(passage.text) for passage in passages.heldout)
        assert 0.1 * len(text) < held < 0.35 * len(text)


def test_passages_depend_on_the_seed_and_not_on_the_call() -> None:
    document = record("a", "\n\n".join(SENTENCES))
    places = {hold_out_passages([document], 0.05, seed).heldout[0].text for seed in range(12)}
    assert len(places) > 3
    assert hold_out_passages([document], 0.05, 3) == hold_out_passages([document], 0.05, 3)


def test_passages_of_the_longest_document_are_held_out() -> None:
    records = [record("a", "Short text of one line."), record("b", "\n".join(SENTENCES)), record("c", "Another one.")]
    passages = hold_out_passages(records, 0.05, 0)
    assert {part.id.partition("#")[0] for part in passages.heldout} == {"b"}
    assert [part.id for part in passages.training if "#" not in part.id] == ["a", "b", "c"]


def test_one_of_seven_documents_that_cannot_be_split_is_held_out_with_its_copies() -> None:
    records = [record(str(number), f"One sentence about item {number % 6}") for number in range(7)]
    passages = hold_out_passages(records, 0.05, 0)
    assert len({part.text for part in passages.heldout}) == 1
    assert not {part.text for part in passages.heldout} & {part.text for part in passages.training}
    assert len(passages.training) + len(passages.heldout) == 7


@pytest.mark.parametrize("texts", [[], ["One sentence."], ["a b c " * 500], ["One.", "Two.", "Three."]])
def test_too_little_text_is_left_whole(texts: list[str]) -> None:
    records = [record(str(number), text) for number, text in enumerate(texts)]
    assert hold_out_passages(records, 0.05, 0).training == records
    assert hold_out_passages([record("a", "\n".join(SENTENCES))], 0.0, 0).heldout == []


def test_single_text_file_is_curated_with_a_heldout_part_and_its_books_balance(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("\n\n".join(SENTENCES))
    corpus = curated(path)
    report = corpus.report().sources["mine"]
    assert report.heldout > 1
    assert report.read == report.kept + report.heldout + report.removed + report.quarantined
    assert curated(path, fraction=0.0).heldout == []


def test_pool_with_enough_documents_is_split_by_whole_documents(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    texts = [f"Document {number}. " + "\n\n".join(SENTENCES[:10]) for number in range(40)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = curated(path)
    _, heldout = split_heldout([record(str(number), text) for number, text in enumerate(texts)], 0.05, 0)
    assert [part.text for part in corpus.heldout] == [part.text for part in heldout]
    assert {part.text for part in corpus.heldout} | {part.text for part in corpus.kept} == set(texts)
