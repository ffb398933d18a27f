"""Pre-training by two processes under torchrun gives the result of one process."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mixcpt.config import PretrainConfig
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import NullTracker, Spool
from mixcpt.train.pretrain import pretrain
from tests.unit.train.mixtures import write_mixture

ROW_TOKENS = 16
SCRIPT = """
import json, sys
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.config import PretrainConfig
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import Spool
from mixcpt.train.pretrain import pretrain

job = json.loads(open(sys.argv[1]).read())
pretrain(
    PretrainConfig(**job["config"]), ArtifactRef.from_json(job["mixture"]), ModelRef.from_json(job["base"]),
    seed=0, store=ArtifactStore(job["store"]), tracker=Spool(job["spool"]),
)
"""


def mixture(store: ArtifactStore) -> ArtifactRef:
    """Publish a mixture of ten rows, so that batches of four end with two blank rows."""

    def build(folder: Path) -> dict[str, int]:
        ids = np.random.default_rng(0).integers(4, 40, (10, ROW_TOKENS)).astype(np.int32)
        positions = np.tile(np.arange(ROW_TOKENS, dtype=np.int32) % 8, (10, 1))
        labels = np.where(positions == 0, -100, ids).astype(np.int32)
        labels[1, 4:] = -100  # processes score different numbers of tokens
        columns = {"input_ids": ids, "labels": labels, "position_ids": positions, "source_ids": np.zeros_like(ids)}
        write_mixture(folder, columns, {"anatomy": "domain"})
        return {}

    return store.produce(StageKey("mixture", 1, {}), build)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_processes(folder: Path, store: Path, config: dict[str, Any], rows: ArtifactRef, base: ModelRef) -> None:
    """Train with two processes under torchrun."""
    job = {
        "config": config,
        "mixture": rows.to_json(),
        "base": base.to_json(),
        "store": str(store),
        "spool": str(folder / "spool.jsonl"),
    }
    (folder / "job.json").write_text(json.dumps(job))
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*command, str(folder / "script.py"), str(folder / "job.json")], check=True, env=environment)


class DyingTracker:
    """Stands for a process that dies at its last metric."""

    def log(self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None) -> None:
        if step == total_steps:
            raise KeyboardInterrupt


def assert_same_model(ref: ArtifactRef | None, expected: ArtifactRef) -> None:
    assert ref is not None
    weights = load_file(expected.file("model") / "model.safetensors")
    for name, weight in load_file(ref.file("model") / "model.safetensors").items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=2e-6)
    scored = [
        [step["train/scored_tokens"] for step in json.loads(model.file("history.json").read_text())]
        for model in (expected, ref)
    ]
    assert scored[0] == scored[1]


def test_two_processes_train_the_weights_of_one_and_take_over_from_it(tiny_model: ModelRef, tmp_path: Path) -> None:
    rows = mixture(ArtifactStore(tmp_path / "mixture"))
    config = {"batch_rows": 4, "micro_batch_rows": 1, "log_steps": 1, "checkpoint_steps": 2}
    settings = PretrainConfig(**config)  # type: ignore[arg-type]
    single = pretrain(settings, rows, tiny_model, seed=0, store=ArtifactStore(tmp_path / "one"), tracker=NullTracker())

    run_processes(tmp_path, tmp_path / "two", config, rows, tiny_model)
    assert_same_model(ArtifactStore(tmp_path / "two").find("model", single.fingerprint), single)
    assert [line.step for line in Spool(tmp_path / "spool.jsonl").read()[0]] == [1, 2, 3]  # one process measures

    cut = tmp_path / "cut"
    cut.mkdir()
    with pytest.raises(KeyboardInterrupt):
        pretrain(settings, rows, tiny_model, seed=0, store=ArtifactStore(cut), tracker=DyingTracker())
    assert list(cut.glob("work/model/*/checkpoints/checkpoint-2/COMPLETE"))
    run_processes(cut, cut, config, rows, tiny_model)
    assert [line.step for line in Spool(cut / "spool.jsonl").read()[0]] == [3]  # from one process's checkpoint on
    assert_same_model(ArtifactStore(cut).find("model", single.fingerprint), single)
