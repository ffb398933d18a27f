"""The cached teacher: faithful on text, found whatever the packing, resumed after a crash, refused when foreign."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from mixcpt.artifacts import ArtifactRef, ArtifactStore
from mixcpt.config import (
    BaseModelConfig,
    CachedTeacher,
    ClosedWorldSource,
    CurationConfig,
    FilesSource,
    LssdMethod,
    MixtureConfig,
    PoolWeights,
)
from mixcpt.curation import curate
from mixcpt.distill import teacher_writer
from mixcpt.distill.cached import CachedTargets
from mixcpt.distill.head import head_of
from mixcpt.distill.loss import Teacher, distillation_loss
from mixcpt.distill.objective import objective_of
from mixcpt.distill.teacher_cache import TeacherCache
from mixcpt.distill.teacher_writer import cache_teacher
from mixcpt.errors import ArtifactError, ConfigError
from mixcpt.mixture import mix
from mixcpt.models import ModelRef, load_model, resolve_model
from mixcpt.tracking import NullTracker

DOMAIN = PoolWeights(domain=1, instructions=0, preferences=0)
SWAP = objective_of(LssdMethod().streams()[0])


@pytest.fixture(scope="module")
def base() -> ModelRef:
    return resolve_model(BaseModelConfig())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> ArtifactRef:
    source = ClosedWorldSource(name="world", pool="domain", wordings=1, limit=300)
    return curate(CurationConfig(sources=(source,)), seed=0, store=ArtifactStore(tmp_path_factory.mktemp("corpus")))


def mixed(corpus: ArtifactRef, base: ModelRef, store: Path, seed: int = 0, row_tokens: int = 64) -> ArtifactRef:
    config = MixtureConfig(weights=DOMAIN, total_tokens=4_000, row_tokens=row_tokens)
    return mix(config, corpus, base, seed=seed, store=ArtifactStore(store))


def cached(
    mixture: ArtifactRef, base: ModelRef, store: Path, top_k: int = 64, max_tokens: int = 512, tracker: object = None
) -> ArtifactRef:
    return cache_teacher(
        CachedTeacher(top_k=top_k),
        mixture,
        base,
        precision="fp32",
        max_tokens=max_tokens,
        store=ArtifactStore(store),
        tracker=tracker or NullTracker(),  # type: ignore[arg-type]
    )


def opened(ref: ArtifactRef, mixture: ArtifactRef, base: ModelRef) -> TeacherCache:
    digest = json.loads(mixture.file("accounting.json").read_text())["tokens_digest"]
    vocab = head_of(load_model(base)).weight.shape[0]
    return TeacherCache.open(ref, tokens_digest=digest, teacher_digest=base.digest, vocab_size=vocab)


def dense(mixture: ArtifactRef, model: ModelRef) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the tokens but the first of each text (at most 512), read alone, and the tokens' indices."""
    loaded, start, found, places = load_model(model), 0, [], []
    for ids in pq.read_table(mixture.file("tokens.parquet"))["ids"].to_pylist():
        with torch.no_grad():
            found.append(loaded(torch.tensor([ids[:512]])).logits[0, :-1].log_softmax(1))
        places.append(torch.arange(start + 1, start + min(len(ids), 512)))
        start += len(ids)
    return torch.cat(found), torch.cat(places)


def kl_of_buckets(log_q: Tensor, kept: CachedTargets) -> Tensor:
    """KL(dense || cached) per token, the rest of the mass spread over the rest as the dense teacher has it."""
    q, rest = log_q.double().exp(), log_q.double().clone()
    top = kept.log_probs.double()
    rest.scatter_(1, kept.token_ids, -torch.inf)
    missing = (1 - top.exp().sum(1)).clamp_min(1e-12).log()
    filled = rest - rest.logsumexp(1, keepdim=True) + missing.unsqueeze(1)
    filled.scatter_(1, kept.token_ids, top)
    return (q * (log_q.double() - filled)).nan_to_num(0.0).sum(1)


def test_cache_is_faithful_and_more_so_the_more_is_kept(corpus: ArtifactRef, base: ModelRef, tmp_path: Path) -> None:
    mixture = mixed(corpus, base, tmp_path)
    log_q, places = dense(mixture, base)
    for top_k, bound in ((8, 1e-3), (64, 1e-4)):
        kept = opened(cached(mixture, base, tmp_path, top_k), mixture, base).targets(places, torch.device("cpu"))
        expected = log_q.topk(top_k)
        assert (kept.token_ids == expected.indices).float().mean() > 0.99  # half precision cannot tell near ties apart
        torch.testing.assert_close(kept.log_probs, expected.values, rtol=1e-3, atol=1e-2)
        assert (kept.log_probs.double().exp().sum(1) <= 1).all()
        assert kl_of_buckets(log_q, kept).mean() < bound


def test_loss_with_the_whole_vocabulary_cached_is_that_of_the_dense_teacher(
    corpus: ArtifactRef, base: ModelRef, tmp_path: Path
) -> None:
    mixture = mixed(corpus, base, tmp_path)
    head = head_of(load_model(base))
    ref = cached(mixture, base, tmp_path, top_k=head.weight.shape[0])
    _, places = dense(mixture, base)
    ids = torch.tensor([token for text in _texts(mixture) for token in text])
    states = _states(base, _texts(mixture)[:20])[:200]
    labels = ids[places][:200]
    student = (states + 0.3 * torch.randn(states.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    results = []
    for teacher in (Teacher(states, head), opened(ref, mixture, base).targets(places[:200], torch.device("cpu"))):
        output = distillation_loss(student, head, labels, SWAP, normaliser=200.0, teacher=teacher)
        results.append((output.loss.detach(), *torch.autograd.grad(output.loss, student)))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=2e-2, atol=2e-5)


def _texts(mixture: ArtifactRef) -> list[list[int]]:
    return pq.read_table(mixture.file("tokens.parquet"))["ids"].to_pylist()  # type: ignore[no-any-return]


def _states(base: ModelRef, texts: list[list[int]]) -> Tensor:
    """The states that predict the tokens of each text, read alone."""
    body = load_model(base).get_decoder()
    with torch.no_grad():
        return torch.cat([body(torch.tensor([ids])).last_hidden_state[0, :-1] for ids in texts])


def test_another_packing_or_seed_of_the_same_texts_finds_the_same_cache(
    corpus: ArtifactRef, base: ModelRef, tmp_path: Path
) -> None:
    first = cached(mixed(corpus, base, tmp_path), base, tmp_path, top_k=4)
    other = mixed(corpus, base, tmp_path, seed=5, row_tokens=128)
    again = cached(other, base, tmp_path, top_k=4)
    assert again.reused and again.digest == first.digest
    rows = pq.read_table(other.file("rows-0.parquet"))
    index, ids = (np.stack(rows[name].to_pylist()) for name in ("token_index", "input_ids"))
    flat = np.array([token for text in _texts(other) for token in text])
    assert (flat[index[index >= 0]] == ids[index >= 0]).all()  # the index names the token that stands there


def test_long_documents_are_read_in_windows_with_at_least_half_of_their_context(
    corpus: ArtifactRef, base: ModelRef, tmp_path: Path
) -> None:
    mixture, window = mixed(corpus, base, tmp_path), 16
    kept = opened(cached(mixture, base, tmp_path, top_k=4, max_tokens=window), mixture, base)
    loaded, start = load_model(base), 0
    for ids in _texts(mixture)[:20]:
        for place in range(1, len(ids)):
            begin = 0 if place < window else (place - window // 2) // (window // 2) * (window // 2)
            with torch.no_grad():
                expected = loaded(torch.tensor([ids[begin:place]])).logits[0, -1].log_softmax(0)[ids[place]]
            found = kept.targets(torch.tensor([start + place]), torch.device("cpu")).label_log_probs[0]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        start += len(ids)


class DyingTracker:
    """Stands for a process that dies in the middle."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.steps: list[int] = []

    def log(self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None) -> None:
        self.steps.append(step)
        if len(self.steps) == self.calls:
            raise KeyboardInterrupt


def test_interrupted_cache_goes_on_and_equals_an_uninterrupted_one(
    corpus: ArtifactRef, base: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_writer, "_BLOCK_TOKENS", 1000)
    mixture = mixed(corpus, base, tmp_path)
    whole = cached(mixture, base, tmp_path / "whole", top_k=4)
    dying = DyingTracker(3)
    with pytest.raises(KeyboardInterrupt):
        cached(mixture, base, tmp_path / "cut", top_k=4, tracker=dying)
    filled: list[int] = []
    fill = teacher_writer._fill

    def counted(*arguments: Any) -> None:
        filled.append(1)
        fill(*arguments)

    monkeypatch.setattr(teacher_writer, "_fill", counted)
    uncut = DyingTracker(0)
    resumed = cached(mixture, base, tmp_path / "cut", top_k=4, tracker=uncut)
    assert len(dying.steps) == 3 and len(filled) == len(uncut.steps) - 3 > 0  # three blocks were not done again
    for name in ("token_ids.npy", "log_probs.npy", "label_log_probs.npy"):
        assert whole.file(name).read_bytes() == resumed.file(name).read_bytes()


def test_cache_of_other_texts_or_another_teacher_is_refused(
    corpus: ArtifactRef, base: ModelRef, tiny_model: ModelRef, tmp_path: Path
) -> None:
    mixture = mixed(corpus, base, tmp_path)
    ref = cached(mixture, base, tmp_path, top_k=4)
    digest = json.loads(mixture.file("accounting.json").read_text())["tokens_digest"]
    vocab = head_of(load_model(base)).weight.shape[0]
    with pytest.raises(ConfigError, match=r"another texts or tokenizer\n.*job `cache`"):
        TeacherCache.open(ref, tokens_digest="0", teacher_digest=base.digest, vocab_size=vocab)
    with pytest.raises(ConfigError, match="another teacher"):
        TeacherCache.open(ref, tokens_digest=digest, teacher_digest=tiny_model.digest, vocab_size=vocab)


def test_cache_that_the_disk_cannot_hold_is_refused_before_work(
    corpus: ArtifactRef, base: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = mixed(corpus, base, tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ArtifactError, match=r"GiB more.*\n.*top_k"):
        cached(mixture, base, tmp_path)


def test_cache_is_faithful_on_real_text(shared_data: Path, tmp_path: Path) -> None:
    model = resolve_model(BaseModelConfig(model=str(shared_data / "models" / "TinyStories-656K")))
    path = str(shared_data / "medicine" / "anatomy-physiology.docs.jsonl.gz")
    store = ArtifactStore(tmp_path)
    corpus = curate(
        CurationConfig(sources=(FilesSource(name="anatomy", pool="domain", paths=(path,), limit=2),)),
        seed=0,
        store=store,
    )
    mixture = mix(MixtureConfig(weights=DOMAIN, total_tokens=2000), corpus, model, seed=0, store=store)
    log_q, places = dense(mixture, model)
    mean = {}
    for top_k in (16, 64, 256):
        kept = opened(cached(mixture, model, tmp_path, top_k), mixture, model).targets(places, torch.device("cpu"))
        mean[top_k] = float(kl_of_buckets(log_q, kept).mean())
    assert max(mean.values()) < 1e-4, mean  # what is left is the rounding of what was kept
