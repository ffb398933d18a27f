"""Search for recorded runs by their model or name, in a store with runs that this version cannot read."""

from pathlib import Path

import pytest

from mixcpt.config import AdaptConfig
from mixcpt.errors import ConfigError
from mixcpt.records.run import RunResult, find_maker, find_run, publish_json, save_run
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef


def result(name: str, model: str) -> RunResult:
    refs = {"pretrained": ArtifactRef("model", model, model, "/nowhere")}
    base = ModelRef("base", "/nowhere", "base-digest")
    return RunResult(config=AdaptConfig(name=name), base=base, refs=refs, final="pretrained", evaluations={})


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """A store with the run of the model `good`, and a newer run whose settings are no longer supported."""
    store = ArtifactStore(tmp_path)
    save_run(store, result("readable", "good"))
    data = result("reverse", "other").to_json()
    data["config"]["pretrain"]["method"] = {"kind": "streams", "of": [{"divergence": "reverse"}]}
    publish_json(store, StageKey("run", 1, {"name": "reverse"}), data, {"name": "reverse", "final": "pretrained"})
    return store


def test_find_maker_skips_runs_with_settings_that_are_no_longer_supported(store: ArtifactStore) -> None:
    assert find_maker(store, "good") == result("readable", "good")


def test_find_maker_without_a_readable_run_of_the_model_names_the_store(store: ArtifactStore) -> None:
    with pytest.raises(ConfigError, match=f"no run of the store {store.root} trained the model other"):
        find_maker(store, "other")


def test_find_run_by_name_reports_why_its_settings_are_not_supported(store: ArtifactStore) -> None:
    with pytest.raises(ConfigError, match="divergence: reverse, which is no longer supported"):
        find_run(store, "reverse")
