"""The published mixture, compared token by token with its corpus."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixcpt.config import BaseModelConfig, CurationConfig, FieldNames, FilesSource, MixtureConfig, PoolWeights
from mixcpt.curation.pipeline import curate
from mixcpt.errors import ConfigError, DataError
from mixcpt.mixture.pipeline import mix
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, load_tokenizer, resolve_model

WORDS = "the owl fox heron river tower keeps likes visits blue red green gold iron Alda Boren Cira"
WEIGHTS = PoolWeights(domain=0.5, instructions=0.3, preferences=0.2)


def sentence(draw: np.random.Generator, low: int, high: int) -> str:
    return " ".join(draw.choice(WORDS.split(), draw.integers(low, high))) + " ."


def write(path: Path, rows: list[dict[str, str]]) -> tuple[str, ...]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return (str(path),)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> ArtifactRef:
    """Documents of two sources (some longer than a row), instructions and preferences, in the tiny model's words."""
    folder = tmp_path_factory.mktemp("sources")
    draw = np.random.default_rng(5)
    long = [{"text": sentence(draw, 40, 150)} for _ in range(30)]
    short = [{"text": sentence(draw, 8, 30)} for _ in range(60)]
    questions = [{"prompt": sentence(draw, 4, 12) + " ?", "response": sentence(draw, 1, 6)} for _ in range(200)]
    pairs = [
        {"prompt": sentence(draw, 4, 12), "chosen": "gold " + sentence(draw, 2, 6), "rejected": sentence(draw, 2, 6)}
        for _ in range(50)
    ]
    sources = (
        FilesSource(name="long", pool="domain", paths=write(folder / "long.jsonl", long)),
        FilesSource(name="short", pool="domain", paths=write(folder / "short.jsonl", short)),
        FilesSource(name="ask", pool="instructions", paths=write(folder / "ask.jsonl", questions)),
        FilesSource(name="pairs", pool="preferences", paths=write(folder / "pairs.jsonl", pairs)),
    )
    store = ArtifactStore(folder / "store")
    return curate(CurationConfig(sources=sources, heldout_fraction=0.0), seed=0, store=store)


def rows_of(mixture: ArtifactRef) -> dict[str, np.ndarray]:
    table = pq.read_table(mixture.file("rows-0.parquet"))
    return {name: np.stack(table[name].to_pylist()) for name in table.column_names}


def accounting(mixture: ArtifactRef) -> dict[str, Any]:
    return json.loads(mixture.file("accounting.json").read_text())  # type: ignore[no-any-return]


def segments(rows: dict[str, np.ndarray]) -> list[tuple[int, list[int], list[int], list[int]]]:
    """Source, ids, labels and positions of every segment; a segment begins at position 0."""
    parts = []
    columns = ("input_ids", "labels", "position_ids", "source_ids")
    for ids, labels, positions, sources in zip(*(rows[name] for name in columns), strict=True):
        starts = [*np.flatnonzero(positions == 0).tolist(), len(ids)]
        for start, end in pairwise(starts):
            assert len(set(sources[start:end].tolist())) == 1
            parts.append((int(sources[start]), *(part[start:end].tolist() for part in (ids, labels, positions))))
    return parts


def texts_of(
    corpus: ArtifactRef, tokenizer: Any, loss_on_response: bool = False
) -> dict[str, list[tuple[list[int], int]]]:
    """Ids of every text by source, computed independently, and the number of question tokens."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    texts: dict[str, list[tuple[list[int], int]]] = {}
    for file, question, answer in (
        ("documents", None, "text"),
        ("instructions", "prompt", "response"),
        ("preferences", "prompt", "chosen"),
    ):
        for row in pq.read_table(corpus.file(f"{file}.parquet")).to_pylist():
            before = ids(row[question] + "\n") if question else []
            whole = [tokenizer.bos_token_id, *before, *ids(row[answer]), tokenizer.eos_token_id]
            unscored = 1 + len(before) if question and loss_on_response else 0
            texts.setdefault(row["source"], []).append((whole, unscored))
    return texts


@pytest.fixture(scope="module")
def mixture(corpus: ArtifactRef, tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> ArtifactRef:
    config = MixtureConfig(weights=WEIGHTS, total_tokens=20_000, row_tokens=64)
    return mix(config, corpus, tiny_model, seed=0, store=ArtifactStore(tmp_path_factory.mktemp("store")))


def test_rows_are_fixed_size_lists_of_the_agreed_types(mixture: ArtifactRef) -> None:
    schema = pq.read_schema(mixture.file("rows-0.parquet"))
    assert {field.name: field.type for field in schema} == {
        "input_ids": pa.list_(pa.int32(), 64),
        "labels": pa.list_(pa.int32(), 64),
        "position_ids": pa.list_(pa.int32(), 64),
        "source_ids": pa.list_(pa.int16(), 64),
        "token_index": pa.list_(pa.int64(), 64),
    }


def test_every_reading_is_in_the_rows_once_with_its_own_source(
    mixture: ArtifactRef, corpus: ArtifactRef, tiny_model: ModelRef
) -> None:
    texts = texts_of(corpus, load_tokenizer(tiny_model))
    names = {entry["id"]: entry["name"] for entry in accounting(mixture)["sources"]}
    passes = {entry["name"]: entry["passes"] for entry in accounting(mixture)["sources"]}
    pieces: dict[str, Counter[tuple[int, ...]]] = {name: Counter() for name in texts}
    for source, ids, _, _ in segments(rows_of(mixture)):
        if source >= 0:
            pieces[names[source]][tuple(ids)] += 1
    for name, source_texts in texts.items():
        expected = Counter[int]()
        for ids, _ in source_texts:
            expected.update(ids)
        packed = Counter[int]()
        for piece_ids, count in pieces[name].items():
            packed.update({token: times * count for token, times in Counter(piece_ids).items()})
        full, partial = int(passes[name]), passes[name] % 1 > 0
        for token, count in expected.items():
            assert full * count <= packed[token] <= (full + partial) * count
        whole = {tuple(ids) for ids, _ in source_texts}
        for piece in pieces[name]:
            assert piece in whole or any(contains(text, piece) for text in whole)


def contains(text: tuple[int, ...], piece: tuple[int, ...]) -> bool:
    return any(text[start : start + len(piece)] == piece for start in range(len(text) - len(piece) + 1))


def test_labels_are_the_tokens_but_for_first_of_segment_and_padding(mixture: ArtifactRef) -> None:
    rows = rows_of(mixture)
    scored = 0
    for source, ids, labels, positions in segments(rows):
        assert positions == list(range(len(ids)))
        assert labels[0] == -100
        assert labels[1:] == ([-100] * (len(ids) - 1) if source == -1 else ids[1:])
        scored += 0 if source == -1 else len(ids) - 1
    account = accounting(mixture)
    assert account["scored_tokens"] == scored == int((rows["labels"] != -100).sum())
    padding = rows["source_ids"] == -1
    assert account["padding_tokens"] == int(padding.sum())
    assert (np.diff(padding.astype(int), axis=1) >= 0).all()  # padding is at the end of its row


def test_weights_are_exact_and_the_account_adds_up(
    mixture: ArtifactRef, corpus: ArtifactRef, tiny_model: ModelRef
) -> None:
    account, sources = accounting(mixture), rows_of(mixture)["source_ids"]
    assert account["pools"] == {
        "domain": {"tokens": 10_000, "target_tokens": 10_000},
        "instructions": {"tokens": 6_000, "target_tokens": 6_000},
        "preferences": {"tokens": 4_000, "target_tokens": 4_000},
    }
    assert account["total_tokens"] == 20_000 == int((sources >= 0).sum())
    assert account["num_rows"] * 64 == 20_000 + account["padding_tokens"]
    assert account["fill_fraction"] == 20_000 / (account["num_rows"] * 64) >= 0.995
    texts = texts_of(corpus, load_tokenizer(tiny_model))
    for entry in account["sources"]:
        source_texts = texts[entry["name"]]
        assert entry["documents"] == len(source_texts)
        assert entry["unique_tokens"] == sum(len(ids) for ids, _ in source_texts)
        assert entry["tokens"] == int((sources == entry["id"]).sum())
        assert entry["passes"] == pytest.approx(entry["tokens"] / entry["unique_tokens"])
        assert entry["share_fraction"] == pytest.approx(entry["tokens"] / 20_000)
    long, short = account["sources"][:2]
    assert long["passes"] == pytest.approx(short["passes"], rel=0.01)
    assert long["split_documents"] > 0


def test_domain_share_is_even_along_the_run(mixture: ArtifactRef) -> None:
    sources = rows_of(mixture)["source_ids"]
    for tenth in np.array_split(sources, 10):
        real = tenth[tenth >= 0]
        assert abs((real <= 1).mean() - 0.5) < 0.08


def test_loss_on_response_scores_answers_alone(corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path) -> None:
    config = MixtureConfig(
        weights=PoolWeights(domain=0.1, instructions=0.9, preferences=0),
        total_tokens=5_000,
        row_tokens=256,
        loss_on="response",
    )
    result = mix(config, corpus, tiny_model, seed=0, store=ArtifactStore(tmp_path))
    expected = {tuple(ids): unscored for ids, unscored in texts_of(corpus, load_tokenizer(tiny_model), True)["ask"]}
    instructions = next(entry["id"] for entry in accounting(result)["sources"] if entry["pool"] == "instructions")
    checked = 0
    for source, ids, labels, _ in segments(rows_of(result)):
        if source == instructions and tuple(ids) in expected:
            unscored = expected[tuple(ids)]
            assert labels == [-100] * unscored + ids[unscored:]
            checked += 1
    assert checked > 100


def test_mixture_is_deterministic_and_follows_the_seed(
    corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path, mixture: ArtifactRef
) -> None:
    config = MixtureConfig(weights=WEIGHTS, total_tokens=20_000, row_tokens=64)
    again = mix(config, corpus, tiny_model, seed=0, store=ArtifactStore(tmp_path))
    assert again.digest == mixture.digest
    other = mix(config, corpus, tiny_model, seed=1, store=ArtifactStore(tmp_path))
    assert other.fingerprint != again.fingerprint
    assert rows_of(other)["input_ids"].tolist() != rows_of(again)["input_ids"].tolist()
    assert mix(config, corpus, tiny_model, seed=1, store=ArtifactStore(tmp_path)).reused


def test_base_with_other_weights_and_the_same_tokenizer_reuses_the_mixture(
    corpus: ArtifactRef, tiny_model: ModelRef, mixture: ArtifactRef
) -> None:
    config = MixtureConfig(weights=WEIGHTS, total_tokens=20_000, row_tokens=64)
    twin = ModelRef("twin", tiny_model.path, "0" * 64)
    store = ArtifactStore(Path(mixture.path).parents[1])
    assert mix(config, corpus, twin, seed=0, store=store).reused


def test_row_longer_than_the_model_is_refused_before_work(
    corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path / "store")
    with pytest.raises(ConfigError, match=r"mixture\.row_tokens is 512"):
        mix(MixtureConfig(weights=WEIGHTS, row_tokens=512), corpus, tiny_model, seed=0, store=store)
    assert not store.root.exists()


def test_weight_of_a_pool_without_records_is_refused(corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path) -> None:
    config = MixtureConfig(weights=PoolWeights(domain=1, general=1), total_tokens=1_000, row_tokens=64)
    store = ArtifactStore(tmp_path / "store")
    with pytest.raises(DataError, match=r"mixture\.weights\.general"):
        mix(config, corpus, tiny_model, seed=0, store=store)
    assert store.list("mixture") == []


def test_real_corpora_curate_and_mix_end_to_end(shared_data: Path, tmp_path: Path) -> None:
    sources = (
        FilesSource(
            name="anatomy",
            pool="domain",
            paths=(str(shared_data / "medicine" / "anatomy-physiology.docs.jsonl.gz"),),
            limit=60,
        ),
        FilesSource(
            name="t0",
            pool="instructions",
            paths=(str(shared_data / "instructions" / "t0_sample_11k.jsonl.gz"),),
            fields=FieldNames(response="completion"),
            limit=4_000,
        ),
        FilesSource(
            name="hh",
            pool="preferences",
            paths=(str(shared_data / "preferences" / "hh_rlhf_harmless_base_test.jsonl.gz"),),
            dialogue="human_assistant",
        ),
    )
    store = ArtifactStore(tmp_path)
    corpus = curate(CurationConfig(sources=sources), seed=0, store=store)
    counts = {
        name: [entry[key] for key in ("read", "quarantined", "removed")]
        for name, entry in json.loads(corpus.file("report.json").read_text())["sources"].items()
    }
    assert counts == COUNTED_BY_HAND
    answers = pq.read_table(corpus.file("instructions.parquet"))["response"].to_pylist()
    assert not any("<|endoftext|>" in answer for answer in answers)
    base = resolve_model(BaseModelConfig(model=str(shared_data / "models" / "TinyStories-656K")))
    config = MixtureConfig(total_tokens=200_000, row_tokens=512)
    account = accounting(mix(config, corpus, base, seed=0, store=store))
    assert account["fill_fraction"] >= 0.995
    assert {pool: entry["tokens"] for pool, entry in account["pools"].items()} == {
        "domain": 100_000,
        "instructions": 80_000,
        "preferences": 20_000,
    }


COUNTED_BY_HAND = {"anatomy": [60, 0, 0], "t0": [4_000, 0, 56], "hh": [2_312, 9, 0]}
"""Records read, quarantined (4 empty answers, 5 pairs with two prompts) and removed (duplicates)."""
