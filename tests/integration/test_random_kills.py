"""Fifty kills at random times, over the methods: every training ends with the weights of an uninterrupted one."""

import hashlib
import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from mixcpt.config import (
    BaseModelConfig,
    ClosedWorldSource,
    CurationConfig,
    Method,
    MixtureConfig,
    PoolWeights,
    PretrainConfig,
)
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import resolve_model

KILLS_PER_METHOD = 5
CASES: dict[str, dict[str, Any]] = {
    "cpt_replay": {"method": {"kind": "cpt_replay"}},
    "kl": {"method": {"kind": "kl"}},
    "lssd": {"method": {"kind": "lssd"}},
    "lssd cached": {"method": {"kind": "lssd"}, "teacher": {"kind": "cached", "top_k": 16}},
    "lssd LoRA, adapters off": {
        "method": {"kind": "lssd"},
        "scope": {"kind": "lora", "dropout": 0.1},
        "teacher": {"kind": "adapter_off"},
    },
    "margin, wsd": {"method": {"kind": "margin"}, "optimizer": {"schedule": "wsd"}},
    "talr": {"method": {"kind": "talr"}},
    "pit": {"method": {"kind": "pit"}},
    "disc": {"method": {"kind": "disc"}},
    "streams": {"method": {"kind": "streams"}},
}


def run(case: dict[str, Any], store: str) -> None:
    """Run a whole training, starting from the corpus, in a separate process."""
    import torch

    from mixcpt.curation.pipeline import curate
    from mixcpt.distill.teacher_writer import cache_teacher
    from mixcpt.mixture.pipeline import mix
    from mixcpt.store.spool import Spool
    from mixcpt.train.pretrain import pretrain

    torch.set_num_threads(1)
    artifacts = ArtifactStore(store)
    base = resolve_model(BaseModelConfig())
    sources = tuple(ClosedWorldSource(name=pool, pool=pool, wordings=3) for pool in ("domain", "instructions"))  # type: ignore[arg-type]
    corpus = curate(CurationConfig(sources=sources), seed=0, store=artifacts)
    config = PretrainConfig(**case, batch_rows=4, micro_batch_rows=2, checkpoint_steps=4, log_steps=3)
    mixture = MixtureConfig(
        weights=PoolWeights(domain=1, instructions=0.5, preferences=0), total_tokens=12_000, row_tokens=128
    )
    streams = TypeAdapter(Method).validate_python(case["method"]).streams()
    rows = mix(mixture, corpus, base, seed=0, store=artifacts, streams=streams)
    tracker = Spool(Path(store) / "spool.jsonl")
    cache = None
    if config.uses_cache:
        cache = cache_teacher(
            config.teacher,  # type: ignore[arg-type]
            rows,
            base,
            precision="fp32",
            max_tokens=512,
            store=artifacts,
            tracker=tracker,
        )
    pretrain(config, rows, base, seed=0, store=artifacts, tracker=tracker, cache=cache)


def start(case: dict[str, Any], store: Path) -> BaseProcess:
    """Fork a process with loaded libraries, so that the kill hits the training and not an import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["mixcpt.train.pretrain", "mixcpt.curation.pipeline", "mixcpt.distill.teacher_writer"]
    )
    process = context.Process(target=run, args=(case, str(store)))
    process.start()
    return process


def model_of(store: Path) -> ArtifactRef:
    (model,) = ArtifactStore(store).list("model")
    return model


def digest(model: ArtifactRef) -> tuple[str, str]:
    files = (model.file("model") / "model.safetensors", model.file("history.json"))
    weights, history = (hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return weights, history


@pytest.mark.long
@pytest.mark.parametrize("name", list(CASES))
def test_training_killed_at_random_instants_ends_in_the_same_weights(name: str, tmp_path: Path) -> None:
    case, draw = CASES[name], random.Random(name)
    begun = time.monotonic()
    undisturbed = start(case, tmp_path / "undisturbed")
    undisturbed.join()
    duration = time.monotonic() - begun
    assert undisturbed.exitcode == 0
    kills = 0
    while kills < KILLS_PER_METHOD:
        process = start(case, tmp_path / "killed")
        process.join(draw.uniform(0.05, 0.8) * duration)
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
        elif process.exitcode == 0:  # finished before its kill: what is there is thrown away, the rest goes on
            model = model_of(tmp_path / "killed")
            assert digest(model) == digest(model_of(tmp_path / "undisturbed"))
            (model.directory / "COMPLETE").unlink()
    last = start(case, tmp_path / "killed")
    last.join()
    assert last.exitcode == 0
    assert digest(model_of(tmp_path / "killed")) == digest(model_of(tmp_path / "undisturbed"))
