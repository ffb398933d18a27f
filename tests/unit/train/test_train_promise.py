"""Training with retention control: exact resume, early stop, pressure on the objective, weights that move back."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mixcpt.config import CptReplayMethod, FullScopeConfig, LoraScopeConfig, PretrainConfig, RetentionConfig, Scope
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import NullTracker
from mixcpt.train.pretrain import pretrain
from mixcpt.train.tally import Tally
from tests.unit.train.test_train_pretrain import CONFIG, DyingTracker, Interruption, history_of, mixture, weights_of


class DriftProbe:
    """A probe whose losses grow with the distance of the model's predictions from the base's."""

    digest = "drift"

    def __init__(self, base: ModelRef, scale: float) -> None:
        self._text = torch.arange(5, 25)[None]
        self._scale = scale
        self._before = _predictions(load_model(base), self._text)

    def ask(self, model: nn.Module) -> Mapping[str, Tally]:
        return {"skill": Tally(1000, min(1000, int(self._scale * self.moved(model))), 0)}

    def moved(self, model: nn.Module) -> float:
        return (_predictions(model, self._text) - self._before).abs().mean().item()


def _predictions(model: nn.Module, text: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=text).logits.log_softmax(-1).clone()


def promising(**settings: object) -> PretrainConfig:
    promise = RetentionConfig(**{"max_loss": 0.02, "check_steps": 1} | settings)  # type: ignore[arg-type]
    update: dict[str, object] = {"retention": promise}
    return CONFIG.model_copy(update=update | ({"method": CptReplayMethod()} if promise.action == "replay" else {}))


@pytest.fixture(scope="module")
def scale(tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> float:
    return scale_for(CONFIG, tiny_model, tmp_path_factory.mktemp("free"))


def scale_for(config: PretrainConfig, tiny_model: ModelRef, folder: Path) -> float:
    """Return the questions per unit of drift with which a training without control loses about 80 of 1000."""
    store = ArtifactStore(folder)
    free = pretrain(config, mixture(store), tiny_model, seed=1, store=store, tracker=NullTracker())
    return 80 / DriftProbe(tiny_model, 1.0).moved(load_model(ModelRef.from_artifact(free, "free")))


@pytest.mark.parametrize("action", ["alpha", "replay"])
def test_interrupted_promise_resumes_to_the_same_weights_history_and_pressure(
    tiny_model: ModelRef, tmp_path: Path, scale: float, action: str
) -> None:
    config, probe = promising(action=action), DriftProbe(tiny_model, scale)
    store = ArtifactStore(tmp_path / "whole")
    whole = pretrain(config, mixture(store), tiny_model, seed=1, store=store, tracker=NullTracker(), probe=probe)
    store = ArtifactStore(tmp_path / "cut")
    with pytest.raises(Interruption):
        rows, dying = mixture(store), DyingTracker(5)
        pretrain(config, rows, tiny_model, seed=1, store=store, tracker=dying, probe=probe)
    resumed = pretrain(config, mixture(store), tiny_model, seed=1, store=store, tracker=NullTracker(), probe=probe)
    expected = weights_of(whole)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(resumed).items())
    assert history_of(resumed) == history_of(whole)
    pressures = [step["train/retention/pressure"] for step in history_of(whole)]
    assert 0 < max(pressures) <= 0.5


@pytest.mark.parametrize("scope", [FullScopeConfig(), LoraScopeConfig(rank=4)])
def test_weights_go_back_until_the_promise_holds(tiny_model: ModelRef, tmp_path: Path, scope: Scope) -> None:
    scale = scale_for(CONFIG.model_copy(update={"scope": scope}), tiny_model, tmp_path / "free")
    config = promising(action="none").model_copy(update={"scope": scope})
    store, probe = ArtifactStore(tmp_path), DriftProbe(tiny_model, scale)
    model = pretrain(config, mixture(store), tiny_model, seed=1, store=store, tracker=NullTracker(), probe=probe)
    outcome = model.record["metrics"]["retention"]
    assert 0 < outcome["share_of_change"] < 1
    assert outcome["retention/skill/lost_at_most"] <= 0.02
    (tally,) = probe.ask(load_model(ModelRef.from_artifact(model, "kept")).eval()).values()
    assert tally.bound(config.retention.confidence) <= 0.02 and tally.lost > 0


def test_promise_to_stop_ends_the_training_and_counts_what_was_done(
    tiny_model: ModelRef, tmp_path: Path, scale: float
) -> None:
    store, probe = ArtifactStore(tmp_path), DriftProbe(tiny_model, scale)
    config = promising(action="stop")
    model = pretrain(config, mixture(store), tiny_model, seed=1, store=store, tracker=NullTracker(), probe=probe)
    metrics = model.record["metrics"]
    assert 1 <= metrics["steps"] < 7
    assert history_of(model)[-1]["step"] == metrics["steps"]
    store = ArtifactStore(tmp_path / "free")
    free = pretrain(CONFIG, mixture(store), tiny_model, seed=1, store=store, tracker=NullTracker())
    for name in ("tokens", "flops"):
        assert metrics[name] == pytest.approx(free.record["metrics"][name] * metrics["steps"] / 7, abs=1)


def test_promise_that_is_never_in_danger_changes_nothing(tiny_model: ModelRef, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    free = pretrain(CONFIG, mixture(store), tiny_model, seed=1, store=store, tracker=NullTracker())
    probe = DriftProbe(tiny_model, 0.0)
    kept = pretrain(promising(), mixture(store), tiny_model, seed=1, store=store, tracker=NullTracker(), probe=probe)
    expected = weights_of(free)
    assert kept != free
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(kept).items())
    assert kept.record["metrics"]["retention"]["share_of_change"] == 1.0


def test_promise_without_a_probe_is_refused(tiny_model: ModelRef, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with pytest.raises(ConfigError, match="there is no probe"):
        pretrain(promising(), mixture(store), tiny_model, seed=1, store=store, tracker=NullTracker())
