"""The published corpus: complete counts, no held-out text in training, a fingerprint that depends only on content."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixcpt.config import ClosedWorldSource, CurationConfig, FilesSource, HuggingFaceSource
from mixcpt.curation.pipeline import curate
from mixcpt.curation.sources import check_sources
from mixcpt.errors import ConfigError, DataError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore

TABLES = {
    "documents": ["doc_id", "source", "pool", "title", "text"],
    "heldout": ["doc_id", "source", "pool", "title", "text"],
    "instructions": ["id", "source", "prompt", "response"],
    "preferences": ["id", "source", "prompt", "chosen", "rejected"],
    "removed": ["pool", "source", "id", "step", "reason", "text"],
    "quarantine": ["source", "file", "line", "field", "reason", "raw"],
}


def jsonl(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def table(corpus: ArtifactRef, name: str) -> pd.DataFrame:
    return pd.read_parquet(corpus.file(f"{name}.parquet"))


def report(corpus: ArtifactRef) -> dict[str, dict[str, dict[str, int]]]:
    return json.loads(corpus.file("report.json").read_text())  # type: ignore[no-any-return]


def files(name: str, path: str, **options: object) -> FilesSource:
    return FilesSource(name=name, paths=(path,), **{"pool": "domain", **options})  # type: ignore[arg-type]


def facts(count: int, start: int = 0) -> list[str]:
    return [f"Fact number {index} is about something." for index in range(start, start + count)]


LINES = st.sampled_from(
    ["broken", '{"text": ""}', '{"other": 1}', '{"text": "short"}', "[]"]
    + [json.dumps({"text": text}) for text in facts(12)]
    + [json.dumps({"text": text + "  \r\n"}) for text in facts(4)]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    domain=st.lists(LINES, max_size=40),
    general=st.lists(LINES, max_size=40),
    heldout_fraction=st.sampled_from([0.0, 0.2, 1.0]),
    normalise=st.booleans(),
    deduplicate=st.booleans(),
)
def test_books_balance_whatever_the_sources_hold(
    tmp_path: Path,
    domain: list[str],
    general: list[str],
    heldout_fraction: float,
    normalise: bool,
    deduplicate: bool,
) -> None:
    good = json.dumps({"text": "A good document that is always there."})
    (tmp_path / "d1.jsonl").write_text("\n".join([good, *domain]))
    (tmp_path / "d2.jsonl").write_text("\n".join(domain[::2]))
    (tmp_path / "g.jsonl").write_text("\n".join(general))
    config = CurationConfig(
        sources=(
            files("d1", str(tmp_path / "d1.jsonl")),
            files("d2", str(tmp_path / "d2.jsonl")),
            files("g", str(tmp_path / "g.jsonl"), pool="general"),
        ),
        heldout_fraction=heldout_fraction,
        normalise=normalise,
        deduplicate=deduplicate,
    )
    try:
        corpus = curate(config, seed=0, store=ArtifactStore(tmp_path / "store"))
    except DataError as error:  # held out of one pool, the only good text may be removed from the other
        assert "removed" in error.problem
        return
    read = {"d1": 1 + len(domain), "d2": len(domain[::2]), "g": len(general)}
    counts = {
        name: Counter(table(corpus, name)["source"]) for name in ("quarantine", "removed", "heldout", "documents")
    }
    for source, entry in report(corpus)["sources"].items():
        assert entry["read"] == read[source]
        assert entry["read"] == entry["quarantined"] + entry["removed"] + entry["heldout"] + entry["kept"]
        numbers = [counts[name][source] for name in ("quarantine", "removed", "heldout", "documents")]
        assert numbers == [entry["quarantined"], entry["removed"], entry["heldout"], entry["kept"]]
    kept, held = table(corpus, "documents"), table(corpus, "heldout")
    assert not set(kept["text"]) & set(held["text"])
    assert kept["doc_id"].is_unique
    if deduplicate:
        assert not kept.duplicated(["pool", "text"]).any()
        assert not held.duplicated(["pool", "text"]).any()
    explained = Counter(f"{row.step}:{row.source}" for row in table(corpus, "removed").itertuples())
    booked = Counter[str]()
    for entry in json.loads(corpus.file("report.json").read_text())["removed"]:
        booked[f"{entry['step']}:{entry['source']}"] += entry["records"]
    assert explained == booked


def test_all_tables_exist_with_their_columns_even_when_empty(tmp_path: Path) -> None:
    config = CurationConfig(sources=(files("s", jsonl(tmp_path / "s.jsonl", facts(3))),), heldout_fraction=0)
    corpus = curate(config, seed=0, store=ArtifactStore(tmp_path / "store"))
    assert {name: list(table(corpus, name).columns) for name in TABLES} == TABLES
    assert [len(table(corpus, name)) for name in TABLES] == [3, 0, 0, 0, 0, 0]
    assert report(corpus)["pools"]["domain"] == {"records": 3, "bytes": sum(map(len, facts(3))), "heldout": 0}


def test_copies_of_heldout_documents_never_reach_training(tmp_path: Path) -> None:
    first, second = jsonl(tmp_path / "a.jsonl", facts(200)), jsonl(tmp_path / "b.jsonl", facts(200)[::-1])
    config = CurationConfig(
        sources=(files("a", first), files("b", second), files("g", second, pool="general")), heldout_fraction=0.1
    )
    corpus = curate(config, seed=0, store=ArtifactStore(tmp_path / "store"))
    held, kept, removed = (table(corpus, name) for name in ("heldout", "documents", "removed"))
    assert 5 < len(held[held.pool == "domain"]) < 40
    assert set(held["text"]) | set(kept["text"]) == set(facts(200))
    assert not set(held["text"]) & set(kept["text"])
    of_heldout = removed[removed.reason.str.startswith("duplicate of held-out")]
    assert set(of_heldout["text"]) == set(held["text"])
    originals = dict(zip(held["doc_id"], held["text"], strict=True))
    for row in of_heldout.itertuples():
        assert originals[str(row.reason).removeprefix("duplicate of held-out ")] == row.text


def test_adding_a_source_moves_no_document_into_or_out_of_the_heldout_part(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    old = files("old", jsonl(tmp_path / "old.jsonl", facts(100)))
    new = files("new", jsonl(tmp_path / "new.jsonl", facts(100, start=500)))
    alone = table(curate(CurationConfig(sources=(old,)), seed=0, store=store), "heldout")
    both = table(curate(CurationConfig(sources=(new, old)), seed=0, store=store), "heldout")
    assert set(both[both.source == "old"]["doc_id"]) == set(alone["doc_id"])


def test_corpus_of_broken_lines_goes_on_with_one_good_document(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text("{broken\n" * 50 + json.dumps({"text": "The one good document."}) + "\n")
    corpus = curate(CurationConfig(sources=(files("s", str(path)),)), seed=0, store=ArtifactStore(tmp_path / "store"))
    assert list(table(corpus, "documents")["text"]) == ["The one good document."]
    quarantine = table(corpus, "quarantine")
    assert list(quarantine["line"]) == list(range(1, 51))
    assert set(quarantine["raw"]) == {"{broken"}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("{broken\n" * 7, ["0 removed", "7 quarantined", "s.jsonl, line 1: broken JSON", "line 3"]),
        ("", ["0 records read"]),
        ('{"text": "tiny"}\n', ["1 removed", "shorter than 20 characters"]),
        ('{"body": "a document in another field"}\n', ["field 'text': is missing", "body"]),
    ],
)
def test_corpus_without_one_good_document_is_refused_with_reasons(
    tmp_path: Path, content: str, parts: list[str]
) -> None:
    (tmp_path / "s.jsonl").write_text(content)
    store = ArtifactStore(tmp_path / "store")
    with pytest.raises(DataError) as caught:
        curate(CurationConfig(sources=(files("s", str(tmp_path / "s.jsonl")),)), seed=0, store=store)
    assert all(part in caught.value.problem for part in parts)
    assert store.list("corpus") == []
    assert list((tmp_path / "store" / "corpus").iterdir()) == []


def test_missing_file_is_refused_before_the_store_is_touched(tmp_path: Path) -> None:
    config = CurationConfig(sources=(files("s", str(tmp_path / "none.jsonl")),))
    assert check_sources(config) == [f"curation.sources[0].paths[0]: there is no file {str(tmp_path / 'none.jsonl')!r}"]
    with pytest.raises(ConfigError, match=r"none\.jsonl"):
        curate(config, seed=0, store=ArtifactStore(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_dialogue_of_a_document_pool_is_reported(tmp_path: Path) -> None:
    config = CurationConfig(sources=(files("s", jsonl(tmp_path / "s.jsonl", facts(1)), dialogue="human_assistant"),))
    assert check_sources(config)[0].startswith("curation.sources[0].dialogue")


def test_same_content_elsewhere_is_the_same_corpus_and_other_content_is_not(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    first = CurationConfig(sources=(files("s", jsonl(tmp_path / "one" / "s.jsonl", facts(30))),))
    moved = CurationConfig(sources=(files("s", jsonl(tmp_path / "two" / "s.jsonl", facts(30))),))
    built = curate(first, seed=0, store=store)
    assert not built.reused
    again = curate(moved, seed=0, store=store)
    assert (again.fingerprint, again.reused) == (built.fingerprint, True)
    assert curate(first, seed=1, store=store).fingerprint != built.fingerprint
    jsonl(tmp_path / "two" / "s.jsonl", facts(31))
    assert curate(moved, seed=0, store=store).fingerprint != built.fingerprint


def test_curation_is_deterministic_to_the_byte(tmp_path: Path) -> None:
    config = CurationConfig(sources=(files("s", jsonl(tmp_path / "s.jsonl", facts(50) + facts(5))),))
    digests = {curate(config, seed=0, store=ArtifactStore(tmp_path / name)).digest for name in ("x", "y")}
    assert len(digests) == 1


@pytest.mark.parametrize("saved", [True, False])
def test_huggingface_dataset_is_read_from_a_local_folder(tmp_path: Path, saved: bool) -> None:
    from datasets import Dataset

    rows = [{"text": text, "number": index} for index, text in enumerate(facts(25))]
    folder = tmp_path / "set"
    if saved:
        Dataset.from_list(rows).save_to_disk(str(folder))
    else:
        folder.mkdir()
        Dataset.from_list(rows).to_parquet(str(folder / "train.parquet"))
    source = HuggingFaceSource(name="hf", pool="domain", path=str(folder), limit=20)
    corpus = curate(CurationConfig(sources=(source,), heldout_fraction=0), seed=0, store=ArtifactStore(tmp_path / "st"))
    assert list(table(corpus, "documents")["text"]) == facts(20)
    assert report(corpus)["sources"]["hf"]["files"][0]["name"] == "set"  # type: ignore[index]


def test_huggingface_split_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    from datasets import Dataset

    (tmp_path / "set").mkdir()
    Dataset.from_list([{"text": "x"}]).to_parquet(str(tmp_path / "set" / "train.parquet"))
    source = HuggingFaceSource(name="hf", pool="domain", path=str(tmp_path / "set"), split="validation")
    with pytest.raises(ConfigError, match=r"curation\.sources\[0\]: the dataset .* 'validation'"):
        curate(CurationConfig(sources=(source,)), seed=0, store=ArtifactStore(tmp_path / "st"))


def test_closed_world_curates_without_loss(tmp_path: Path) -> None:
    from mixcpt.closed_world import records

    sources = tuple(
        ClosedWorldSource(name=f"world-{pool}", pool=pool, limit=150)  # type: ignore[arg-type]
        for pool in ("domain", "general", "instructions", "preferences")
    )
    corpus = curate(CurationConfig(sources=sources), seed=0, store=ArtifactStore(tmp_path / "store"))
    for source in sources:
        entry = report(corpus)["sources"][source.name]
        assert (entry["read"], entry["quarantined"]) == (150, 0)
    raw = {record["text"] for record in records(sources[0])}
    kept, held = table(corpus, "documents"), table(corpus, "heldout")
    assert set(kept[kept.pool == "domain"]["text"]) | set(held[held.pool == "domain"]["text"]) == raw
