"""Guards of a training: values that are not finite, divergence, return to a good checkpoint, and harmless padding."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mixcpt.config import CptMethod, OptimizerConfig, PretrainConfig
from mixcpt.errors import ModelError, TrainingFailed
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import NullTracker, Tracker
from mixcpt.train import optimizer as optimizers
from mixcpt.train.data import Collator, Row
from mixcpt.train.guarded import FAILED_BATCH
from mixcpt.train.guards import PATIENCE_STEPS, DivergenceGuard, FiniteGuard, require_finite
from mixcpt.train.metrics import TrainingMetrics
from mixcpt.train.pretrain import pretrain
from tests.unit.train.test_train_pretrain import DyingTracker, Interruption, mixture

CONFIG = PretrainConfig(method=CptMethod(), batch_rows=4, micro_batch_rows=4, checkpoint_steps=2, log_steps=2)
TOTAL = 400
"""Steps of a training that is long enough for the whole patience."""


def trained(
    store: ArtifactStore, base: ModelRef, *, rate: float, divergence: str = "stop", tracker: Tracker | None = None
) -> ArtifactRef:
    optimizer = OptimizerConfig(learning_rate=rate, max_grad_norm=1.0)
    config = CONFIG.model_copy(update={"optimizer": optimizer, "divergence": divergence})
    return pretrain(config, mixture(store, 48), base, seed=0, store=store, tracker=tracker or NullTracker())


def weights_of(ref: ArtifactRef) -> bytes:
    return (ref.directory / "model" / "model.safetensors").read_bytes()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def late_blow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Raise the learning rate a ten-thousandfold after the fourth step."""
    factor = optimizers.rate_factor
    monkeypatch.setattr(
        optimizers,
        "rate_factor",
        lambda step, *args, **kwargs: (1 if step < 4 else 1e4) * factor(step, *args, **kwargs),
    )
    yield


def test_first_value_that_is_not_finite_stops_the_training(store: ArtifactStore, tiny_model: ModelRef) -> None:
    with pytest.raises(TrainingFailed, match=r"not finite at step \d+ \(learning rate .*rows \d+"):
        trained(store, tiny_model, rate=1e20)
    assert not TrainingFailed.retryable
    assert not list(store.root.glob("model/*/COMPLETE"))
    [batch] = store.root.glob(f"work/model/*/{FAILED_BATCH}")
    texts = [json.loads(line) for line in batch.read_text().splitlines()]
    assert {text["source"] for text in texts} == {"anatomy", "dialogues"}


def test_loss_that_stays_finite_and_high_stops_the_training(store: ArtifactStore, tiny_model: ModelRef) -> None:
    with pytest.raises(
        TrainingFailed, match=r"diverged at step \d+: the cross-entropy of stream documents .*rows 0, 1"
    ):
        trained(store, tiny_model, rate=1.5)
    assert not list(store.root.glob("model/*/COMPLETE"))
    assert list(store.root.glob(f"work/model/*/{FAILED_BATCH}"))


def test_divergence_is_ignored_if_the_setting_says_so(store: ArtifactStore, tiny_model: ModelRef) -> None:
    assert TrainingMetrics.of(trained(store, tiny_model, rate=1.5, divergence="ignore")).divergence is None


def test_normal_training_does_not_diverge(store: ArtifactStore, tiny_model: ModelRef) -> None:
    assert trained(store, tiny_model, rate=1e-3)


@pytest.mark.usefixtures("late_blow")
def test_return_publishes_the_last_good_checkpoint_and_records_it(
    store: ArtifactStore, tiny_model: ModelRef, tmp_path: Path
) -> None:
    ref = trained(store, tiny_model, rate=1e-3, divergence="return")
    outcome = TrainingMetrics.of(ref).divergence
    assert outcome is not None
    assert outcome.kept_step == TrainingMetrics.of(ref).steps == 4
    assert outcome.stopped_step > 4
    assert f"stopped at step {outcome.stopped_step} of 12 because its loss diverged" in outcome.sentence
    history = json.loads(ref.file("history.json").read_text())
    assert [entry["step"] for entry in history] == [2, 4]
    # the same weights as an interrupted attempt that another process ends
    other = ArtifactStore(tmp_path / "other")
    with pytest.raises(Interruption):
        trained(other, tiny_model, rate=1e-3, divergence="return", tracker=DyingTracker(4))
    again = trained(other, tiny_model, rate=1e-3, divergence="return")
    assert TrainingMetrics.of(again).divergence == outcome
    assert weights_of(again) == weights_of(ref)


def test_return_without_a_good_checkpoint_stops(store: ArtifactStore, tiny_model: ModelRef) -> None:
    with pytest.raises(TrainingFailed, match="nothing was published"):
        trained(store, tiny_model, rate=30.0, divergence="return")


def check(guard: DivergenceGuard, loss: float, step: int, total_steps: int = TOTAL) -> bool:
    return guard.check({"text": loss}, step=step, total_steps=total_steps) is not None


def test_divergence_needs_a_high_loss_for_a_number_of_steps() -> None:
    guard = DivergenceGuard(vocab_size=50_000)
    guard.begin({"text": 2.0})
    assert not check(guard, 9.0, 10)
    assert not check(guard, 2.5, 20)  # a spike that ended
    assert not check(guard, 9.0, 30)
    assert check(guard, 9.0, 20 + PATIENCE_STEPS)


def test_loss_that_no_training_recovers_from_is_divergence_at_once() -> None:
    guard = DivergenceGuard(vocab_size=50_000)
    guard.begin({"text": 2.0})
    assert check(guard, 60.0, 10)


def test_divergence_at_the_end_needs_few_steps() -> None:
    guard = DivergenceGuard(vocab_size=50_000)
    guard.begin({"text": 2.0})
    assert not check(guard, 2.0, 390)
    assert check(guard, 9.0, TOTAL)


@pytest.mark.parametrize(("end", "is_failure"), [(2.4, False), (2.6, True)])
def test_mean_of_the_last_quarter_above_the_start_is_divergence(end: float, is_failure: bool) -> None:
    guard = DivergenceGuard(vocab_size=50_000)
    guard.begin({"text": 2.0})
    assert not any(check(guard, 2.9, step) for step in range(10, 310, 10))  # may still recover
    assert not any(check(guard, end, step) for step in range(310, TOTAL, 10))
    failure = guard.check({"text": end}, step=TOTAL, total_steps=TOTAL)
    assert (failure is not None) == is_failure
    assert not failure or "2.6 nats in the last 100 steps, was 2 at its start" in failure.reason


def test_high_last_step_after_a_good_quarter_is_no_divergence() -> None:
    guard = DivergenceGuard(vocab_size=50_000)
    guard.begin({"text": 2.0})
    assert not any(check(guard, 2.0, step) for step in range(10, TOTAL, 10))
    assert not check(guard, 2.9, TOTAL)


def test_last_quarter_is_remembered_over_a_resume(tmp_path: Path) -> None:
    guard = DivergenceGuard(vocab_size=50_000)
    guard.begin({"text": 2.0})
    check(guard, 2.0, 300)
    check(guard, 2.9, 390)
    guard.save(tmp_path, 390)
    resumed = DivergenceGuard(vocab_size=50_000)
    resumed.load(tmp_path)
    assert check(resumed, 2.0, TOTAL)


@pytest.mark.parametrize("start", [0.7, 3.0, 8.0])
def test_loss_of_a_model_that_guesses_evenly_counts_as_diverged_only_if_it_started_lower(start: float) -> None:
    guard = DivergenceGuard(vocab_size=2000)
    guard.begin({"text": start})
    assert check(guard, math.log(2000) + 0.6, PATIENCE_STEPS) == (start < math.log(2000) - 0.4)


def test_guard_remembers_start_high_losses_and_good_steps_over_a_resume(tmp_path: Path) -> None:
    guard = DivergenceGuard(vocab_size=50_000)
    guard.begin({"text": 2.0})
    check(guard, 1.9, 10)
    guard.save(tmp_path, 10)
    check(guard, 9.0, 20)
    guard.save(tmp_path, 20)
    resumed = DivergenceGuard(vocab_size=50_000)
    resumed.load(tmp_path)
    assert resumed.good_step == 10
    assert check(resumed, 9.0, 30)


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
