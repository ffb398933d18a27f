"""Names of models: folders, the shipped model, runs and merges, and refusals of unknown names."""

from pathlib import Path

import pytest

from mixcpt.config import AdaptConfig, AverageConfig
from mixcpt.errors import ConfigError, ModelError
from mixcpt.merge.methods import average
from mixcpt.merge.names import find_model
from mixcpt.records.run import RunResult, save_run
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import CLOSED_WORLD_PATH, ModelRef
from tests.unit.merge_models import moved_model


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def trained(tiny_model: ModelRef, tmp_path: Path, store: ArtifactStore) -> ArtifactRef:
    """A model in the store, whatever made it."""
    return average(AverageConfig(), tiny_model, moved_model(tiny_model, tmp_path / "moved", 1), store=store)


def add_run(store: ArtifactStore, name: str, base: ModelRef, trained: ArtifactRef) -> None:
    refs = {"pretrained": trained, "sft": trained}
    save_run(store, RunResult(config=AdaptConfig(name=name), base=base, refs=refs, final="sft", evaluations={}))


def test_find_model_takes_folders_and_the_shipped_model(tiny_model: ModelRef, store: ArtifactStore) -> None:
    assert find_model(store, tiny_model.path) == tiny_model
    assert find_model(store, "closed-world").directory == CLOSED_WORLD_PATH
    with pytest.raises(ModelError, match=r"there is no folder ./nowhere"):
        find_model(store, "./nowhere")


def test_find_model_takes_a_run_and_each_of_its_models(
    tiny_model: ModelRef, store: ArtifactStore, trained: ArtifactRef
) -> None:
    add_run(store, "mine", tiny_model, trained)
    final = find_model(store, "mine")
    assert (final.name, final.digest, final.directory) == ("mine", trained.digest, trained.file("model"))
    assert find_model(store, "mine@pretrained").digest == trained.digest
    assert find_model(store, "mine@base") == tiny_model
    with pytest.raises(ConfigError, match=r"the run mine has no model 'dpo'; it has: base, pretrained, sft"):
        find_model(store, "mine@dpo")


def test_find_model_takes_an_earlier_merge_by_its_name(
    tiny_model: ModelRef, store: ArtifactStore, trained: ArtifactRef
) -> None:
    soup = average(AverageConfig(), tiny_model, tiny_model, store=store, name="soup")
    found = find_model(store, "soup")
    assert (found.name, found.digest) == ("soup", soup.digest)
    newer = average(AverageConfig(), ModelRef.from_artifact(trained, "t"), tiny_model, store=store, name="soup")
    assert find_model(store, "soup").digest == newer.digest
    newer.file("model/config.json").write_text("{}")  # damaged: no longer an artifact
    assert find_model(store, "soup").digest == soup.digest


def test_find_model_refuses_a_name_of_both_a_run_and_a_merge(tiny_model: ModelRef, store: ArtifactStore) -> None:
    soup = average(AverageConfig(), tiny_model, tiny_model, store=store, name="mine")
    add_run(store, "mine", tiny_model, soup)
    with pytest.raises(ConfigError, match=r"both a run and a merge have the name 'mine'"):
        find_model(store, "mine")


def test_find_model_of_an_unknown_name_lists_the_runs(
    tiny_model: ModelRef, store: ArtifactStore, trained: ArtifactRef
) -> None:
    add_run(store, "mine", tiny_model, trained)
    with pytest.raises(ConfigError, match=r"has no run 'yours'; its runs: mine"):
        find_model(store, "yours")


def test_find_model_prefers_a_run_to_a_folder_without_a_model(
    tiny_model: ModelRef, store: ArtifactStore, trained: ArtifactRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mixcpt").mkdir()
    add_run(store, "mixcpt", tiny_model, trained)
    assert find_model(store, "mixcpt").digest == trained.digest
    with pytest.raises(ModelError, match="is not a model folder"):
        find_model(store, "./mixcpt")
