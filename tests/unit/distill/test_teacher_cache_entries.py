"""Entries of the teacher's cache: the effect of rounding, and large vocabularies."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixcpt.distill.cached import CachedTargets
from mixcpt.distill.teacher_cache import CacheIdentity, Entries, TeacherCache, cache_bytes

CPU = torch.device("cpu")


def stored(log_probs: Tensor, labels: Tensor, top_k: int) -> CachedTargets:
    """Return the predictions after writing them to cache entries and reading them back."""
    identity = CacheIdentity(
        tokens_digest="", teacher_digest="", vocab_size=log_probs.shape[1], num_tokens=len(labels), top_k=top_k
    )
    entries = Entries.blank(len(labels), identity)
    entries.put(np.arange(len(labels)), log_probs, labels)
    return TeacherCache(entries).targets(torch.arange(len(labels)), CPU)


@settings(deadline=None, max_examples=200)
@given(
    logits=st.lists(st.floats(-150, 150, width=32), min_size=8, max_size=8),
    label=st.integers(0, 7),
    top_k=st.integers(1, 8),
)
def test_rounding_keeps_what_cached_targets_promise(logits: list[float], label: int, top_k: int) -> None:
    exact = torch.tensor([logits]).log_softmax(1)
    kept = stored(exact, torch.tensor([label]), top_k)
    assert kept.token_ids.unique().numel() == top_k
    assert torch.isfinite(kept.log_probs).all() and kept.label_log_probs[0] == exact[0, label]
    mass = kept.log_probs.double().exp().sum() + exact[0, label].double().exp() * (label not in kept.token_ids)
    assert mass <= 1 + 1e-6
    wanted, probabilities = exact.gather(1, kept.token_ids).double().exp(), kept.log_probs.double().exp()
    assert ((probabilities - wanted).abs() <= 1e-4 * wanted**0.75 + 1e-15).all()
    assert abs(probabilities.sum() - wanted.sum()) <= 2e-6


def test_ids_of_a_large_vocabulary_come_back() -> None:
    log_probs = torch.full((2, 70_000), -20.0)
    log_probs[0, 69_999], log_probs[1, 65_536] = -0.1, -0.2
    kept = stored(log_probs, torch.tensor([3, 65_536]), 1)
    assert kept.token_ids.tolist() == [[69_999], [65_536]]
    torch.testing.assert_close(kept.label_log_probs, torch.tensor([-20.0, -0.2]))


def test_ids_of_a_large_vocabulary_take_four_bytes() -> None:
    assert [cache_bytes(10, 64, vocab) for vocab in (1 << 16, (1 << 16) + 1)] == [2640, 3920]
