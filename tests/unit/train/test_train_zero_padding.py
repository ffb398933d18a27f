"""Padding with id 0, whose embedding is zero in an architecture that divides by its norm."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mixcpt.config import BaseModelConfig, CptMethod, KlMethod, Method, PretrainConfig
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import ModelRef, resolve_model
from mixcpt.store.spool import NullTracker
from mixcpt.train.metrics import TrainingMetrics
from mixcpt.train.pretrain import pretrain
from tests.unit.checks.checked_models import write_family
from tests.unit.train.test_train_pretrain import mixture

GEMMA3N = {
    "pad_token_id": 0, "intermediate_size": [64] * 2, "head_dim": 8, "vocab_size_per_layer_input": 40,
    "hidden_size_per_layer_input": 8, "laurel_rank": 4, "layer_types": ["sliding_attention", "full_attention"],
    "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 2, "sliding_window": 8,
}  # fmt: skip


@pytest.mark.parametrize("method", [CptMethod(), KlMethod()])
def test_model_whose_padding_embedding_is_zero_trains_with_finite_weights(
    method: Method, tiny_model: ModelRef, tmp_path: Path
) -> None:
    folder = write_family(tiny_model, tmp_path / "gemma3n", "gemma3n_text", **GEMMA3N)
    base, store = resolve_model(BaseModelConfig(model=str(folder))), ArtifactStore(tmp_path / "store")
    config = PretrainConfig(method=method, batch_rows=4, micro_batch_rows=4)
    ref = pretrain(config, mixture(store), base, seed=0, store=store, tracker=NullTracker())
    weights = load_file(ref.directory / "model" / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert (TrainingMetrics.of(ref).padding_share or 0) > 0
