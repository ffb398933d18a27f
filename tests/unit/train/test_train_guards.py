"""Guards of a training: values that are not finite, divergence, and harmless padding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mixcpt.config import CptMethod, OptimizerConfig, PretrainConfig
from mixcpt.errors import ModelError, TrainingFailed
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import NullTracker
from mixcpt.train.data import Collator, Row
from mixcpt.train.guards import PATIENCE_STEPS, DivergenceGuard, FiniteGuard, require_finite
from mixcpt.train.pretrain import pretrain
from tests.unit.train.test_train_pretrain import mixture

CONFIG = PretrainConfig(method=CptMethod(), batch_rows=4, micro_batch_rows=4, checkpoint_steps=2, log_steps=2)


def trained(store: ArtifactStore, base: ModelRef, *, rate: float, divergence: str = "stop") -> object:
    optimizer = OptimizerConfig(learning_rate=rate, max_grad_norm=1.0)
    config = CONFIG.model_copy(update={"optimizer": optimizer, "divergence": divergence})
    return pretrain(config, mixture(store, 48), base, seed=0, store=store, tracker=NullTracker())


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def test_first_value_that_is_not_finite_stops_the_training(store: ArtifactStore, tiny_model: ModelRef) -> None:
    with pytest.raises(TrainingFailed, match=r"not finite at step \d+ \(learning rate .*rows \d+"):
        trained(store, tiny_model, rate=1e20)
    assert not TrainingFailed.retryable
    assert not list(store.root.glob("model/*/COMPLETE"))


def test_normal_training_does_not_diverge(store: ArtifactStore, tiny_model: ModelRef) -> None:
    assert trained(store, tiny_model, rate=1e-3)


def test_divergence_needs_a_high_loss_for_a_number_of_steps(tmp_path: Path) -> None:
    guard = DivergenceGuard(tmp_path, vocab_size=50_000)
    guard.begin({"text": 2.0})
    assert not guard.check({"text": 9.0}, previous_step=0, step=10, is_last=False)
    assert not guard.check({"text": 2.5}, previous_step=10, step=20, is_last=False)  # a spike that ended
    assert not guard.check({"text": 9.0}, previous_step=20, step=30, is_last=False)
    assert guard.check({"text": 9.0}, previous_step=30, step=20 + PATIENCE_STEPS, is_last=False)


def test_divergence_compares_with_the_first_step_after_a_resume(tmp_path: Path) -> None:
    DivergenceGuard(tmp_path, vocab_size=50_000).begin({"text": 2.0})
    guard = DivergenceGuard(tmp_path, vocab_size=50_000)
    guard.resume()
    assert guard.check({"text": 9.0}, previous_step=90, step=100, is_last=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_guard_finds_values_that_are_not_finite(value: float) -> None:
    guard = FiniteGuard()
    assert guard.see("loss", torch.tensor(1.0), 1) is None
    assert guard.see("loss", torch.tensor(value), 2) == ("loss", 2)


def test_model_of_nan_is_not_published() -> None:
    model = nn.Linear(2, 2)
    require_finite(model)
    model.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite, such as weight"):
        require_finite(model)


def test_padding_has_the_last_token_of_its_row() -> None:
    ids, sources = np.array([5, 6, 7, 0, 0]), np.array([0, 0, 0, -1, -1])
    columns = {
        "input_ids": ids,
        "labels": np.array([-100, 6, 7, -100, -100]),
        "position_ids": np.array([0, 1, 2, 0, 1]),
        "source_ids": sources,
        "token_index": np.arange(5),
    }
    batch = Collator(5, (False,), has_teacher_rows=False)([Row(0, False, False, columns)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 7, 7]]
