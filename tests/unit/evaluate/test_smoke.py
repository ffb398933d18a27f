"""The smoke test: a model must answer as in its evaluation before it is served."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mixcpt.config import ClosedWorldTask, CurationConfig, EvaluateConfig
from mixcpt.curation.pipeline import curate
from mixcpt.errors import ModelError
from mixcpt.evaluate import evaluate
from mixcpt.evaluate.smoke import Smoke, smoke_test
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import CLOSED_WORLD_PATH, ModelRef
from mixcpt.store.spool import NullTracker

CONFIG = EvaluateConfig(
    tasks=(
        ClosedWorldTask(name="kept", group="general", about="general_unasked", limit=24),
        ClosedWorldTask(name="asked", group="general", about="general_asked", limit=24),
    ),
    headline_domain="asked",
    headline_general="kept",
    kl_to_base=False,
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[ArtifactStore, ArtifactRef, ArtifactRef]:
    """A store, a corpus, and the evaluation of the shipped model."""
    store = ArtifactStore(tmp_path_factory.mktemp("store"))
    corpus = curate(CurationConfig(), seed=0, store=store)
    model = ModelRef("shipped", str(CLOSED_WORLD_PATH), "shipped")
    return store, corpus, evaluate(CONFIG, model, corpus, form="plain", seed=0, store=store, tracker=NullTracker())


def test_smoke_test_passes_an_unchanged_model_and_is_never_reused(
    recorded: tuple[ArtifactStore, ArtifactRef, ArtifactRef],
) -> None:
    store, corpus, before = recorded
    model = ModelRef("shipped", str(CLOSED_WORLD_PATH), "shipped")
    made = [
        smoke_test(Smoke(CONFIG, before, "plain", attempt), model, corpus, seed=0, store=store)
        for attempt in ("one", "two")
    ]
    assert made[0].fingerprint != made[1].fingerprint
    assert made[0].record["metrics"] == {"questions": 16, "same": 16}


def test_smoke_test_refuses_weights_that_have_changed(
    recorded: tuple[ArtifactStore, ArtifactRef, ArtifactRef], tmp_path: Path
) -> None:
    store, corpus, before = recorded
    damaged = tmp_path / "damaged"
    shutil.copytree(CLOSED_WORLD_PATH, damaged)
    weights = load_file(damaged / "model.safetensors")
    save_file({name: -tensor for name, tensor in weights.items()}, damaged / "model.safetensors", {"format": "pt"})
    model = ModelRef("damaged", str(damaged), "damaged")
    with pytest.raises(ModelError, match="of 16 answers equal the recorded ones"):
        smoke_test(Smoke(CONFIG, before, "plain", "three"), model, corpus, seed=0, store=store)
    assert not [ref for ref in store.list("smoke") if ref.record["inputs"]["model"] == "damaged"]
