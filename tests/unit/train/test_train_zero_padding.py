"""Padding with id 0, whose embedding is zero in an architecture that divides by its norm."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mixcpt.config import BaseModelConfig, CptMethod, DiscMethod, KlMethod, Method, PretrainConfig
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import ModelRef, resolve_model
from mixcpt.store.spool import NullTracker
from mixcpt.train.data import MixtureRows
from mixcpt.train.metrics import TrainingMetrics
from mixcpt.train.pretrain import pretrain
from tests.unit.checks.checked_models import write_family
from tests.unit.mixture.test_views_pairs import curated, mixed, sentence
from tests.unit.train.mixtures import write_mixture
from tests.unit.train.test_train_pretrain import SOURCES, mixture, stream_of, trainer_of

GEMMA3N = {
    "pad_token_id": 0, "intermediate_size": [64] * 2, "head_dim": 8, "vocab_size_per_layer_input": 40,
    "hidden_size_per_layer_input": 8, "laurel_rank": 4, "layer_types": ["sliding_attention", "full_attention"],
    "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 2, "sliding_window": 8,
}  # fmt: skip


@pytest.fixture
def gemma3n(tiny_model: ModelRef, tmp_path: Path) -> ModelRef:
    folder = write_family(tiny_model, tmp_path / "gemma3n", "gemma3n_text", **GEMMA3N)
    return resolve_model(BaseModelConfig(model=str(folder)))


def loss_and_gradients(base: ModelRef, folder: Path, method: Method, num_padding: int) -> tuple[Tensor, list[Tensor]]:
    """Return the loss and the gradients of rows of one document, filled with padding of id 0."""
    ids = np.random.default_rng(0).integers(4, 40, (4, 16)).astype(np.int32)
    tail = np.zeros((4, num_padding), np.int32)
    labels = ids.copy()
    labels[:, 0] = -100
    columns = {
        "input_ids": np.hstack([ids, tail]),
        "labels": np.hstack([labels, tail - 100]),
        "position_ids": np.hstack([np.tile(np.arange(16), (4, 1)), tail + np.arange(num_padding)]).astype(np.int32),
        "source_ids": np.hstack([0 * ids, tail - 1]).astype(np.int16),
    }
    rows = MixtureRows(write_mixture(folder / f"rows-{num_padding}", columns, SOURCES), 4)
    trainer = trainer_of(base, folder, rows, stream_of(method), 4, 4)
    collate: Any = trainer.data_collator
    model: Any = trainer.model
    batch = collate([rows[index] for index in range(4)])
    loss = trainer.compute_loss(model.eval(), batch, num_items_in_batch=torch.tensor([60]))
    loss.backward()
    return loss.detach(), [weight.grad for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize("method", [CptMethod(), KlMethod()])
def test_padding_changes_neither_the_loss_nor_a_gradient(gemma3n: ModelRef, tmp_path: Path, method: Method) -> None:
    expected, exact_gradients = loss_and_gradients(gemma3n, tmp_path, method, 0)
    loss, gradients = loss_and_gradients(gemma3n, tmp_path, method, 8)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for gradient, exact in zip(gradients, exact_gradients, strict=True):
        torch.testing.assert_close(gradient, exact, rtol=1e-4, atol=1e-5)


def test_disc_at_the_default_rate_is_finite_with_a_padding_embedding_of_zero(gemma3n: ModelRef, tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    documents = [" ".join(sentence(draw) for _ in range(draw.integers(3, 7))) for _ in range(12)]
    corpus = curated(tmp_path / "corpus", {"documents": documents})
    config = PretrainConfig(method=DiscMethod(), batch_rows=4, micro_batch_rows=4)
    rows = mixed(corpus, gemma3n, tmp_path / "store", config.method)
    ref = pretrain(config, rows, gemma3n, seed=0, store=ArtifactStore(tmp_path / "store"), tracker=NullTracker())
    weights = load_file(ref.directory / "model" / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert (TrainingMetrics.of(ref).padding_share or 0) > 0


@pytest.mark.parametrize("method", [CptMethod(), KlMethod()])
def test_model_whose_padding_embedding_is_zero_trains_with_finite_weights(
    method: Method, gemma3n: ModelRef, tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path / "store")
    config = PretrainConfig(method=method, batch_rows=4, micro_batch_rows=4)
    ref = pretrain(config, mixture(store), gemma3n, seed=0, store=store, tracker=NullTracker())
    weights = load_file(ref.directory / "model" / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert (TrainingMetrics.of(ref).padding_share or 0) > 0
