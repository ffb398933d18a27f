"""Keys of evaluation, probe and smoke test: computed without torch, and equal to the published fingerprints."""

import subprocess
import sys
from pathlib import Path

import pytest

from mixcpt.config import ClosedWorldTask, EvaluateConfig, RetentionConfig
from mixcpt.evaluate import evaluate
from mixcpt.evaluate.probe import draw_probe, probe_key
from mixcpt.evaluate.smoke import Smoke, smoke_key
from mixcpt.evaluate.stage import evaluation_key
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import NullTracker

CORPUS = ArtifactRef("corpus", "0" * 64, "0" * 64, "/nowhere")
CONFIG = EvaluateConfig(
    tasks=(ClosedWorldTask(name="use", limit=4), ClosedWorldTask(name="memory", form="memory", limit=4)),
    headline_domain="use",
    headline_general="memory",
)


@pytest.mark.parametrize("with_documents", [False, True])
def test_evaluation_key_equals_the_published_fingerprint(
    tiny_model: ModelRef, tmp_path: Path, with_documents: bool
) -> None:
    store = ArtifactStore(tmp_path / "store")
    key = evaluation_key(
        CONFIG, tiny_model, CORPUS, form="plain", seed=3, reference=tiny_model, with_documents=with_documents
    )
    ref = evaluate(
        CONFIG,
        tiny_model,
        CORPUS,
        form="plain",
        seed=3,
        store=store,
        tracker=NullTracker(),
        reference=tiny_model,
        with_documents=with_documents,
    )
    assert key.fingerprint == ref.fingerprint


def test_probe_key_equals_the_published_fingerprint(tiny_model: ModelRef, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"tasks": (ClosedWorldTask(name="use"),), "headline_general": "use"})
    key = probe_key(config, ("use",), tiny_model, CORPUS, seed=1)
    promise = RetentionConfig(max_loss=0.5)
    ref = draw_probe(config, promise, ("use",), tiny_model, CORPUS, seed=1, store=ArtifactStore(tmp_path / "store"))
    assert key.fingerprint == ref.fingerprint


def test_smoke_key_differs_by_attempt(tiny_model: ModelRef) -> None:
    keys = [smoke_key(Smoke(CONFIG, CORPUS, "plain", attempt=attempt), tiny_model) for attempt in ("one", "two", "one")]
    assert keys[0].fingerprint == keys[2].fingerprint != keys[1].fingerprint


def test_keys_import_neither_torch_nor_transformers() -> None:
    code = """
import sys
from mixcpt.config import EvaluateConfig
from mixcpt.evaluate.probe import probe_key
from mixcpt.evaluate.smoke import Smoke, smoke_key
from mixcpt.evaluate.stage import evaluation_key
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef

corpus, model = ArtifactRef("corpus", "", "", ""), ModelRef("model", "", "")
config = EvaluateConfig()
config = config.model_copy(update={"tasks": config.tasks[:-1]})
evaluation_key(config, model, corpus, form="chat", seed=0, with_documents=True)
probe_key(config, ("domain_questions",), model, corpus, seed=0)
smoke_key(Smoke(config, corpus, "plain", "once"), model)
print([name for name in ("torch", "transformers", "lm_eval") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
