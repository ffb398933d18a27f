"""Names of MLflow's registry are resolved to models, with a real MLflow database."""

import shutil
from pathlib import Path

import pytest

from mixcpt.cli.named import named_model
from mixcpt.config import RuntimeConfig
from mixcpt.errors import ConfigError, ModelError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef
from tasks.registry import register_version
from tasks.resolve import resolve
from tasks.stage_runs import DIGEST
from tasks.tracking import Place, open_tracking


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def registered(store: ArtifactStore, tiny_model: ModelRef) -> ArtifactRef:
    """A model in the store that is version 1 of `adapted`, the challenger."""

    def build(folder: Path) -> dict[str, str]:
        shutil.copytree(tiny_model.path, folder / "model")
        return {}

    ref = store.produce(StageKey("model", 1, {"stage": "pretrain"}), build)
    tracking = open_tracking(Place.of(RuntimeConfig(store=str(store.root))))
    tracking.client.create_logged_model(tracking.experiment_id, name="final", tags={DIGEST: ref.digest})
    assert register_version(tracking, "adapted", ref, "") == "1"
    return ref


def test_registered_model_is_resolved_by_alias_and_version(
    store: ArtifactStore, registered: ArtifactRef, tmp_path: Path
) -> None:
    expected = ModelRef("adapted version 1", str(registered.file("model")), registered.digest)
    runtime = RuntimeConfig(store=str(store.root))
    for name in ("adapted@challenger", "models:/adapted@challenger", "models:/adapted/1"):
        assert resolve(name, runtime) == expected
    assert named_model(store, "adapted@challenger") == expected  # asks in a process of its own
    moved = ArtifactStore(tmp_path / "moved")
    store.root.rename(moved.root)
    assert named_model(moved, "models:/adapted/1").path == str(moved.root / "model" / registered.short / "model")


def test_unknown_names_are_refused_with_the_valid_forms(store: ArtifactStore, registered: ArtifactRef) -> None:
    runtime = RuntimeConfig(store=str(store.root))
    for name in ("adapted@champion", "other@challenger", "models:/adapted/7"):
        with pytest.raises(ConfigError, match="has no model") as refused:
            resolve(name, runtime)
        assert "NAME@ALIAS" in refused.value.hint


def test_changed_weights_are_refused(store: ArtifactStore, registered: ArtifactRef) -> None:
    record = registered.file("record.json")
    record.write_text(record.read_text().replace(registered.digest, "0" * 64))
    with pytest.raises(ModelError, match="has changed since it was registered as adapted version 1"):
        named_model(store, "models:/adapted/1")
