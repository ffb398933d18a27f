"""Rewriting from end to end with a scripted generator: corpus, account, memory, keys."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mixcpt.config import CurationConfig, FilesSource, RewriteConfig
from mixcpt.config.rewrite import FilesGenerator
from mixcpt.curation.pipeline import curate
from mixcpt.errors import DataError
from mixcpt.rewrite import pipeline
from mixcpt.rewrite.account import RewriteAccount
from mixcpt.rewrite.memory import Generated
from mixcpt.rewrite.pipeline import rewrite
from mixcpt.rewrite.requests import Request
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import NullTracker

Script = Callable[[Request], str]


class ScriptedTexts:
    """A generator that answers by a function, one text at a time, and counts its answers."""

    name = "scripted"

    def __init__(self, script: Script, fail_after: int | None = None) -> None:
        self.script, self.fail_after, self.answered = script, fail_after, 0

    def answers(self, requests: Mapping[str, Request]) -> Iterator[list[Generated]]:
        for key, request in requests.items():
            if self.answered == self.fail_after:
                raise KeyboardInterrupt
            self.answered += 1
            yield [Generated(key=key, text=self.script(request), tokens_read=10, tokens_written=5)]


def good(request: Request) -> str:
    if request.form.name == "judge":
        return "No." if "wrong" in request.statement else "Yes, it says so."
    name = request.passage.text.split()[1]
    if request.form.content == "questions":
        return f"Q: Where does mill {name} stand?\nA: By the river {request.repetition}."
    return f"By the river there stands mill {name}, as people say {'again ' * request.repetition}."


@pytest.fixture
def corpus(tmp_path: Path) -> ArtifactRef:
    return write_corpus(tmp_path, ["Ardwick", "Brenn", "Cole", "Dunmore"])


def write_corpus(folder: Path, names: list[str]) -> ArtifactRef:
    path = folder / "docs.jsonl"
    texts = [
        f"Mill {name} stands by the river, and people say that it grinds 0 or 1 ton of rye, again." for name in names
    ]
    path.write_text(
        "".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in zip(names, texts, strict=True))
    )
    config = CurationConfig(
        sources=(FilesSource(name="docs", pool="domain", paths=(str(path),)),), heldout_fraction=0.0
    )
    return curate(config, seed=0, store=ArtifactStore(folder / "store"))


def run(
    tmp_path: Path,
    corpus: ArtifactRef,
    model: ModelRef,
    texts: ScriptedTexts,
    monkeypatch: pytest.MonkeyPatch,
    **settings: object,
) -> ArtifactRef:
    monkeypatch.setattr(pipeline, "open_generator", lambda *_, **__: texts)
    config = RewriteConfig.model_validate({"forms": ["paraphrase", "questions"], "amount": 2.0, **settings})
    store = ArtifactStore(tmp_path / "store")
    return rewrite(config, corpus, model, seed=0, store=store, tracker=NullTracker())


def rows(ref: ArtifactRef) -> list[dict[str, str]]:
    return pq.read_table(ref.file("documents.parquet")).to_pylist()  # type: ignore[no-any-return]


def test_corpus_has_documents_and_texts_with_their_document(
    tmp_path: Path, corpus: ArtifactRef, tiny_model: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = run(tmp_path, corpus, tiny_model, ScriptedTexts(good), monkeypatch)
    documents = [row for row in rows(ref) if not row["form"]]
    texts = [row for row in rows(ref) if row["form"]]
    assert [row["doc_id"] for row in documents] == ["docs/Ardwick", "docs/Brenn", "docs/Cole", "docs/Dunmore"]
    assert {row["form"] for row in texts} == {"paraphrase", "questions"}
    assert all(row["document"].removeprefix("docs/") in row["text"] for row in texts)
    assert {row["source"] for row in texts} == {"docs.paraphrase", "docs.questions"}
    assert set(corpus.record["files"]) <= set(ref.record["files"])


def test_rejected_texts_are_stored_and_counted_but_not_trained_on(
    tmp_path: Path, corpus: ArtifactRef, tiny_model: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(request: Request) -> str:
        if request.form.name == "paraphrase" and request.passage.document.id == "docs/Cole":
            return "By the river a wrong mill Cole stands."
        return good(request)

    ref = run(tmp_path, corpus, tiny_model, ScriptedTexts(script), monkeypatch)
    account = RewriteAccount.of(ref)
    assert account.forms["paraphrase"].rejected["not supported"] >= 1
    assert account.examples["not supported"][0]["detail"] == "By the river a wrong mill Cole stands."
    assert not any("wrong" in row["text"] for row in rows(ref))
    stored = pq.read_table(ref.file("texts.parquet")).to_pylist()
    assert len(stored) == account.accepted + account.rejected
    assert ref.record["metrics"]["accepted"] == account.accepted


def test_interrupted_rewriting_asks_only_for_the_missing_texts(
    tmp_path: Path, corpus: ArtifactRef, tiny_model: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ScriptedTexts(good)
    expected = run(tmp_path / "other", corpus, tiny_model, whole, monkeypatch)
    interrupted = ScriptedTexts(good, fail_after=5)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, corpus, tiny_model, interrupted, monkeypatch)
    resumed = ScriptedTexts(good)
    ref = run(tmp_path, corpus, tiny_model, resumed, monkeypatch)
    assert interrupted.answered + resumed.answered == whole.answered
    assert rows(ref) == rows(expected)
    assert RewriteAccount.of(ref).reused == 5


def test_changed_document_is_the_only_one_written_again(
    tmp_path: Path, corpus: ArtifactRef, tiny_model: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ScriptedTexts(good)
    run(tmp_path, corpus, tiny_model, first, monkeypatch, amount=2.2)
    changed = write_corpus(tmp_path, ["Ardwick", "Brenn", "Cole", "Elm"])
    asked: list[str] = []

    def script(request: Request) -> str:
        asked.append(request.passage.document.id)
        return good(request)

    run(tmp_path, changed, tiny_model, ScriptedTexts(script), monkeypatch, amount=2.2)
    assert "docs/Elm" in asked
    assert asked.count("docs/Elm") > sum(name != "docs/Elm" for name in asked)


def test_nothing_accepted_is_an_error_with_examples(
    tmp_path: Path, corpus: ArtifactRef, tiny_model: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="none of the") as caught:
        run(tmp_path, corpus, tiny_model, ScriptedTexts(lambda _: "In Paris there are 77 mills."), monkeypatch)
    assert "number not in the passage" in str(caught.value)


def test_texts_from_files_are_checked_as_well(
    tmp_path: Path, corpus: ArtifactRef, tiny_model: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "texts.jsonl"
    texts = ["By the river stands mill Ardwick.", "By the river stand 9 mills."]
    path.write_text(
        "".join(json.dumps({"document": "Ardwick", "form": "paraphrase", "text": text}) + "\n" for text in texts)
    )
    generator = FilesGenerator(paths=(str(path),)).model_dump()
    ref = run(tmp_path, corpus, tiny_model, ScriptedTexts(good), monkeypatch, generator=generator)
    assert [row["text"] for row in rows(ref) if row["form"]] == texts[:1]
    assert RewriteAccount.of(ref).rejected == 1


def test_price_counts_the_tokens_that_were_read_and_written(
    tmp_path: Path, corpus: ArtifactRef, tiny_model: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = {"kind": "endpoint", "url": "http://127.0.0.1:9", "model": "m"}
    prices = {"price_per_million_read": 2e5, "price_per_million_written": 1e5}
    texts = ScriptedTexts(good)
    account = RewriteAccount.of(
        run(tmp_path, corpus, tiny_model, texts, monkeypatch, generator={**generator, **prices})
    )
    assert account.tokens_read == 10 * texts.answered
    assert account.money == pytest.approx(0.2 * account.tokens_read + 0.1 * account.tokens_written)
