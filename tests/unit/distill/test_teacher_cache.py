"""The teacher's cache against a dense teacher that reads one document at a time; crashes and other packings."""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from mixcpt.config import (
    BaseModelConfig,
    CachedTeacherConfig,
    ClosedWorldSource,
    CurationConfig,
    FilesSource,
    MixtureConfig,
    PoolWeights,
)
from mixcpt.curation.pipeline import curate
from mixcpt.distill import teacher_writer
from mixcpt.distill.cached import CachedTargets
from mixcpt.distill.loss import Teacher, distillation_loss
from mixcpt.distill.model import head_of
from mixcpt.distill.teacher_cache import Entries, TeacherCache, cache_bytes
from mixcpt.distill.teacher_writer import cache_teacher
from mixcpt.errors import ArtifactError, ConfigError, ModelError
from mixcpt.mixture.pipeline import mix
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import CLOSED_WORLD_PATH, ModelRef, load_model, resolve_model
from mixcpt.store.spool import NullTracker, Tracker
from tests.conftest import TINY_WORDS
from tests.unit.distill.objectives import terms

CPU = torch.device("cpu")
NUM_TOKENS = 600
"""Minimum number of tokens that the dense teacher predicts."""
WINDOW = 512


def mixed(
    corpus: ArtifactRef, model: ModelRef, store: ArtifactStore, row_tokens: int = 64, seed: int = 0
) -> ArtifactRef:
    weights = PoolWeights(domain=1, instructions=0, preferences=0)
    config = MixtureConfig(weights=weights, total_tokens=4000, row_tokens=row_tokens)
    return mix(config, corpus, model, seed=seed, store=store)


def cached(
    mixture: ArtifactRef,
    model: ModelRef,
    store: ArtifactStore,
    *,
    top_k: int = 4,
    max_tokens: int = WINDOW,
    precision: str = "fp32",
    tracker: Tracker | None = None,
) -> ArtifactRef:
    config, tracker = CachedTeacherConfig(top_k=top_k), tracker or NullTracker()
    return cache_teacher(
        config, mixture, model, precision=precision, max_tokens=max_tokens, store=store, tracker=tracker
    )


def opened(ref: ArtifactRef, mixture: ArtifactRef, model: ModelRef) -> TeacherCache:
    digest = json.loads(mixture.file("accounting.json").read_text())["tokens_digest"]
    vocab = load_model(model).config.vocab_size
    return TeacherCache.open(ref, tokens_digest=digest, teacher_digest=model.digest, vocab_size=vocab)


def texts_of(mixture: ArtifactRef) -> list[list[int]]:
    texts: list[list[int]] = pq.read_table(mixture.file("tokens.parquet"))["ids"].to_pylist()
    return texts


class Dense:
    """A teacher without a cache; it reads the documents one by one, up to the length of a window."""

    def __init__(self, mixture: ArtifactRef, model: PreTrainedModel, num_tokens: int = NUM_TOKENS) -> None:
        ids, hidden, places, start = [], [], [], 0
        for text in texts_of(mixture):
            with torch.no_grad():
                hidden.append(model.get_decoder()(torch.tensor([text[:WINDOW]])).last_hidden_state[0, :-1])
            ids.append(torch.tensor(text[1:WINDOW]))
            places.append(torch.arange(start + 1, start + min(len(text), WINDOW)))
            start += len(text)
            if sum(map(len, ids)) >= num_tokens:
                break
        self.labels, self.hidden, self.places = torch.cat(ids), torch.cat(hidden), torch.cat(places)
        head = head_of(model)
        self.head = type(head)(head.weight.detach())
        self.log_probs = (self.hidden @ self.head.weight.T).double().log_softmax(1)
        """Log-probabilities from a product in fp32, as in the cache."""

    def label_log_probs(self) -> dict[int, float]:
        """Return the log-probability of the true token by its index."""
        log_probs = self.log_probs.gather(1, self.labels.unsqueeze(1)).squeeze(1)
        return dict(zip(self.places.tolist(), log_probs.tolist(), strict=True))


@pytest.fixture(scope="module")
def closed_world(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelRef, ArtifactRef, ArtifactStore]:
    """The shipped base model, and documents of its world."""
    store = ArtifactStore(tmp_path_factory.mktemp("world"))
    source = ClosedWorldSource(name="world", pool="domain", wordings=1, limit=300)
    model = resolve_model(BaseModelConfig(model=str(CLOSED_WORLD_PATH)))
    corpus = curate(CurationConfig(sources=(source,)), seed=0, store=store)
    return model, mixed(corpus, model, store), store


@pytest.fixture(scope="module")
def real_text(
    tmp_path_factory: pytest.TempPathFactory, shared_data: Path
) -> tuple[ModelRef, ArtifactRef, ArtifactStore]:
    """A pretrained Llama and a textbook."""
    store = ArtifactStore(tmp_path_factory.mktemp("textbook"))
    path = shared_data / "medicine" / "anatomy-physiology.docs.jsonl.gz"
    source = FilesSource(name="anatomy", pool="domain", paths=(str(path),), limit=3)
    model = resolve_model(BaseModelConfig(model=str(shared_data / "models" / "TinyStories-656K")))
    corpus = curate(CurationConfig(sources=(source,), heldout_fraction=0.0), seed=0, store=store)
    return model, mixed(corpus, model, store), store


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> ArtifactRef:
    """Documents of 5 to 150 words of the tiny model."""
    folder, draw = tmp_path_factory.mktemp("corpus"), np.random.default_rng(3)
    texts = [" ".join(draw.choice(TINY_WORDS.split(), draw.integers(5, 150))) for _ in range(60)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = FilesSource(name="texts", pool="domain", paths=(str(folder / "texts.jsonl"),))
    return curate(CurationConfig(sources=(source,), heldout_fraction=0.0), seed=0, store=ArtifactStore(folder))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def divergences(log_q: Tensor, kept: CachedTargets) -> tuple[float, float]:
    """Return the mean KL(dense || cached) per token in nats, with the mass of the rest distributed in two ways.

    Distributed like the dense teacher, only the rounding error remains; distributed evenly, the unknown part is added.
    """
    log_top = kept.log_probs.double()
    rest = (1 - log_top.exp().sum(1, keepdim=True)).clamp_min(1e-12).log()
    shaped = log_q.scatter(1, kept.token_ids, -torch.inf)
    shaped = shaped - shaped.logsumexp(1, keepdim=True) + rest
    even = (rest - np.log(log_q.shape[1] - log_top.shape[1])).expand_as(log_q)
    rounded, known = (
        (log_q.exp() * (log_q - spread.scatter(1, kept.token_ids, log_top))).sum(1).mean() for spread in (shaped, even)
    )
    return float(rounded), float(known)


@pytest.mark.parametrize("case", ["closed_world", "real_text"])
def test_cache_of_text_is_faithful_and_knows_more_the_more_is_kept(case: str, request: pytest.FixtureRequest) -> None:
    model, mixture, store = request.getfixturevalue(case)
    dense = Dense(mixture, load_model(model))
    unknown = []
    for top_k in (8, 64, 256):
        ref = cached(mixture, model, store, top_k=top_k)
        kept = opened(ref, mixture, model).targets(dense.places, CPU)
        rounded, even = divergences(dense.log_probs, kept)
        assert abs(rounded) < 1e-6, top_k
        assert (kept.log_probs.double().exp().sum(1) <= 1 + 1e-6).all()
        of_label = dense.log_probs.gather(1, dense.labels.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(kept.label_log_probs.double(), of_label, rtol=1e-5, atol=1e-5)
        unknown.append(even)
    assert unknown[0] > 2 * unknown[1] > 4 * unknown[2] > 0


@pytest.mark.parametrize("case", ["closed_world", "real_text"])
@pytest.mark.parametrize("ce_weight", [0.5, 0.0])
def test_swap_with_the_whole_vocabulary_kept_equals_the_dense_teacher(
    case: str, ce_weight: float, request: pytest.FixtureRequest
) -> None:
    model, mixture, store = request.getfixturevalue(case)
    dense = Dense(mixture, load_model(model))
    ref = cached(mixture, model, store, top_k=1 << 20)
    kept = opened(ref, mixture, model).targets(dense.places, CPU)
    noise = torch.randn(dense.hidden.shape, generator=torch.Generator().manual_seed(0))
    student = (dense.hidden + 0.3 * dense.hidden.std() * noise).requires_grad_()
    losses, gradients = [], []
    for teacher in (Teacher(dense.hidden, dense.head), kept):
        objective = terms(ce_weight, 1 - ce_weight, "swap")
        loss = distillation_loss(student, dense.head, dense.labels, objective, normaliser=100.0, teacher=teacher).loss
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, student)[0])
    assert abs(losses[1] - losses[0]) <= 1e-4 * losses[0]
    assert (gradients[1] - gradients[0]).norm() <= 1e-4 * gradients[0].norm()


def test_second_part_of_a_split_document_is_predicted_from_the_whole_document(
    corpus: ArtifactRef, tiny_model: ModelRef, store: ArtifactStore
) -> None:
    mixture = mixed(corpus, tiny_model, store, row_tokens=48)
    cache = opened(cached(mixture, tiny_model, store), mixture, tiny_model)
    whole = Dense(mixture, load_model(tiny_model), num_tokens=10**6).label_log_probs()
    starts = np.cumsum([0, *map(len, texts_of(mixture))])
    rows = pq.read_table(mixture.file("rows-0.parquet"))
    index, positions = (np.stack(rows[name].to_pylist()) for name in ("token_index", "position_ids"))
    within = index - starts[np.searchsorted(starts, index, side="right") - 1]
    split = index[(index >= 0) & (positions > 0) & (within > positions)]
    log_probs = cache.targets(torch.from_numpy(split), CPU).label_log_probs
    assert len(split) > 100
    expected = torch.tensor([whole[place] for place in split.tolist()])
    torch.testing.assert_close(log_probs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [16, 17])
def test_each_token_of_a_long_document_is_taken_from_the_window_with_most_context(
    window: int, corpus: ArtifactRef, tiny_model: ModelRef, store: ArtifactStore
) -> None:
    mixture, step, start = mixed(corpus, tiny_model, store), window // 2, 0
    cache = opened(cached(mixture, tiny_model, store, max_tokens=window), mixture, tiny_model)
    model = load_model(tiny_model)
    for text in texts_of(mixture)[:6]:
        for place in range(1, len(text)):
            begin = next(begin for begin in range(0, len(text), step) if place < begin + window)
            with torch.no_grad():
                expected = model(torch.tensor([text[begin:place]])).logits[0, -1].log_softmax(0)[text[place]]
            log_probs = cache.targets(torch.tensor([start + place]), CPU).label_log_probs[0]
            torch.testing.assert_close(log_probs, expected, rtol=1e-4, atol=1e-4)
        start += len(text)


def test_indices_in_any_order_and_of_padding_give_finite_rows_of_their_own(
    corpus: ArtifactRef, tiny_model: ModelRef, store: ArtifactStore
) -> None:
    mixture = mixed(corpus, tiny_model, store)
    cache = opened(cached(mixture, tiny_model, store), mixture, tiny_model)
    indices = torch.tensor([7, -1, 3, 0, 7, 900])
    together = cache.targets(indices, CPU)
    for row, index in enumerate(indices):
        alone = cache.targets(index.reshape(1), CPU)
        for name in ("token_ids", "log_probs", "label_log_probs"):
            assert torch.isfinite(getattr(together, name)).all()
            assert torch.equal(getattr(together, name)[row], getattr(alone, name)[0])


class Ending:
    """A tracker that records its calls, and ends the process after some number of blocks."""

    def __init__(self, after_blocks: int = 0) -> None:
        self.after_blocks = after_blocks
        self.steps: list[int] = []
        self.totals: set[int | None] = set()

    def log(self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None) -> None:
        assert metrics == {"teacher/tokens": step}
        self.steps.append(step)
        self.totals.add(total_steps)
        if len(self.steps) == self.after_blocks:
            raise KeyboardInterrupt


@pytest.fixture
def read_tokens(monkeypatch: pytest.MonkeyPatch) -> list[Int[np.ndarray, " tokens"]]:
    """Use small blocks, and record the tokens of the blocks that are read."""
    blocks: list[Int[np.ndarray, " tokens"]] = []
    fill = teacher_writer._fill

    def remembered(
        entries: Entries,
        model: PreTrainedModel,
        tokens: Int[np.ndarray, " tokens"],
        *,
        windows: list[teacher_writer._Window],
    ) -> None:
        blocks.append(tokens)
        fill(entries, model, tokens, windows=windows)

    monkeypatch.setattr(teacher_writer, "_BLOCK_TOKENS", 500)
    monkeypatch.setattr(teacher_writer, "_fill", remembered)
    return blocks


def test_killed_run_goes_on_from_its_last_block_and_ends_bit_for_bit_the_same(
    corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path, read_tokens: list[Int[np.ndarray, " tokens"]]
) -> None:
    whole_store, cut_store, uncut = ArtifactStore(tmp_path / "whole"), ArtifactStore(tmp_path / "cut"), Ending()
    mixture = mixed(corpus, tiny_model, whole_store)
    whole = cached(mixture, tiny_model, whole_store, tracker=uncut)
    tokens = np.concatenate(read_tokens)
    assert uncut.totals == {len(tokens)} and uncut.steps[-1] == len(tokens) and len(uncut.steps) > 3
    with pytest.raises(KeyboardInterrupt):
        cached(mixture, tiny_model, cut_store, tracker=Ending(after_blocks=2))
    for path in (cut_store.root / "work").rglob("*.npy"):  # a third block that was half written
        path.write_bytes(path.read_bytes() + b"half of a block")
    read_tokens.clear()
    resumed = cached(mixture, tiny_model, cut_store)
    assert np.array_equal(np.concatenate(read_tokens), tokens[uncut.steps[1] :])
    assert resumed.digest == whole.digest
    assert not list((cut_store.root / "work").rglob("*.npy"))


def test_crash_while_publishing_costs_no_work(
    corpus: ArtifactRef,
    tiny_model: ModelRef,
    store: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
    read_tokens: list[Int[np.ndarray, " tokens"]],
) -> None:
    mixture = mixed(corpus, tiny_model, store)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ArtifactStore, "_publish", Mock(side_effect=KeyboardInterrupt))
        cached(mixture, tiny_model, store)
    read_tokens.clear()
    ref = cached(mixture, tiny_model, store)
    assert not ref.reused and not read_tokens


def test_file_system_without_hard_links_gives_the_same_cache(
    corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked, moved = ArtifactStore(tmp_path / "linked"), ArtifactStore(tmp_path / "moved")
    mixture = mixed(corpus, tiny_model, linked)
    with monkeypatch.context() as patched:
        patched.setattr(os, "link", Mock(side_effect=OSError(errno.EPERM, "no hard links here")))
        without = cached(mixture, tiny_model, moved)
    assert without.digest == cached(mixture, tiny_model, linked).digest


def test_another_packing_and_seed_of_the_same_texts_find_the_same_cache(
    corpus: ArtifactRef, tiny_model: ModelRef, store: ArtifactStore
) -> None:
    first = mixed(corpus, tiny_model, store)
    other = mixed(corpus, tiny_model, store, row_tokens=100, seed=5)
    written, reused = cached(first, tiny_model, store), cached(other, tiny_model, store)
    assert first.digest != other.digest
    assert reused.reused and not written.reused and reused.digest == written.digest
    assert opened(reused, other, tiny_model)
    for different in ({"top_k": 5}, {"max_tokens": 32}, {"precision": "bf16"}):
        assert not cached(first, tiny_model, store, **different).reused  # type: ignore[arg-type]


def test_cache_of_other_texts_teacher_or_vocabulary_is_refused_with_what_to_do(
    corpus: ArtifactRef, tiny_model: ModelRef, store: ArtifactStore
) -> None:
    mixture = mixed(corpus, tiny_model, store)
    ref = cached(mixture, tiny_model, store)
    right = {
        "tokens_digest": json.loads(mixture.file("accounting.json").read_text())["tokens_digest"],
        "teacher_digest": tiny_model.digest,
        "vocab_size": load_model(tiny_model).config.vocab_size,
    }
    TeacherCache.open(ref, **right)
    for name, value, message in (
        ("tokens_digest", "0" * 64, "other texts or another tokenizer"),
        ("teacher_digest", "0" * 64, "another teacher"),
        ("vocab_size", 7, "another vocabulary"),
    ):
        with pytest.raises(ConfigError, match=rf"{message}\n.*job `cache`.*frozen"):
            TeacherCache.open(ref, **right | {name: value})


def test_cache_that_the_disk_cannot_hold_is_refused_before_anything_is_written(
    corpus: ArtifactRef, tiny_model: ModelRef, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = mixed(corpus, tiny_model, store)
    monkeypatch.setattr(shutil, "disk_usage", Mock(return_value=Mock(free=1000)))
    with pytest.raises(ArtifactError, match=r"GiB left\n.*top_k"):
        cached(mixture, tiny_model, store)
    assert not list(store.root.rglob("*.npy"))


def test_bf16_teacher_is_kept_as_it_is(corpus: ArtifactRef, tiny_model: ModelRef, store: ArtifactStore) -> None:
    mixture = mixed(corpus, tiny_model, store)
    cache = opened(cached(mixture, tiny_model, store, precision="bf16"), mixture, tiny_model)
    dense = Dense(mixture, load_model(tiny_model))
    log_probs = cache.targets(dense.places, CPU).label_log_probs.double()
    expected = dense.log_probs.gather(1, dense.labels.unsqueeze(1)).squeeze(1)
    assert 0 < (log_probs - expected).abs().max() < 0.05


def test_teacher_whose_predictions_are_not_finite_is_refused(
    corpus: ArtifactRef, tiny_model: ModelRef, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = load_model(tiny_model)
    broken.get_decoder().norm.weight.data[0] = torch.nan
    monkeypatch.setattr(teacher_writer, "_load", lambda *_: broken)
    with pytest.raises(ModelError, match="not finite"):
        cached(mixed(corpus, tiny_model, store), tiny_model, store)


def test_size_is_that_of_the_files(corpus: ArtifactRef, tiny_model: ModelRef, store: ArtifactStore) -> None:
    mixture = mixed(corpus, tiny_model, store)
    ref = cached(mixture, tiny_model, store, top_k=9)
    num_tokens, headers = sum(map(len, texts_of(mixture))), 4 * 128
    expected = cache_bytes(num_tokens, 9, load_model(tiny_model).config.vocab_size)
    assert sum(path.stat().st_size for path in ref.directory.glob("*.npy")) == expected + headers
    assert ref.record["metrics"] == {"tokens": num_tokens, "top_k": 9, "bytes": expected}
