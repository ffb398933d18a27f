"""Pre-training by two processes under torchrun gives what one process gives."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from mixcpt.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.config import PretrainConfig
from mixcpt.models import ModelRef
from mixcpt.tracking import NullTracker, Spool
from mixcpt.train.pretrain import pretrain

ROW_TOKENS = 16
SCRIPT = """
import json, sys
from mixcpt.artifacts import ArtifactRef, ArtifactStore
from mixcpt.config import PretrainConfig
from mixcpt.models import ModelRef
from mixcpt.tracking import Spool
from mixcpt.train.pretrain import pretrain

job = json.loads(open(sys.argv[1]).read())
pretrain(
    PretrainConfig(**job["config"]), ArtifactRef.from_json(job["mixture"]), ModelRef.from_json(job["base"]),
    seed=0, store=ArtifactStore(job["store"]), tracker=Spool(job["spool"]),
)
"""


def mixture(store: ArtifactStore) -> ArtifactRef:
    """Returns ten rows, so that a batch of four leaves two blank rows at the end."""

    def build(folder: Path) -> dict[str, int]:
        ids = np.random.default_rng(0).integers(4, 40, (10, ROW_TOKENS)).astype(np.int32)
        positions = np.tile(np.arange(ROW_TOKENS, dtype=np.int32) % 8, (10, 1))
        labels = np.where(positions == 0, -100, ids).astype(np.int32)
        labels[1, 4:] = -100  # processes score different numbers of tokens
        columns = {"input_ids": ids, "labels": labels, "position_ids": positions, "source_ids": np.zeros_like(ids)}
        lists = {
            name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), ROW_TOKENS)
            for name, values in columns.items()
        }
        pq.write_table(pa.table(lists), folder / "rows.parquet")
        (folder / "accounting.json").write_text(json.dumps({"sources": [{"id": 0, "name": "anatomy"}]}))
        return {}

    return store.produce(StageKey("mixture", 1, {}), build)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_two_processes_train_the_weights_of_one(tiny_model: ModelRef, tmp_path: Path) -> None:
    rows = mixture(ArtifactStore(tmp_path / "mixture"))
    config = {"batch_rows": 4, "micro_batch_rows": 1, "log_steps": 1}
    job = {
        "config": config,
        "mixture": rows.to_json(),
        "base": tiny_model.to_json(),
        "store": str(tmp_path / "two"),
        "spool": str(tmp_path / "spool.jsonl"),
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*command, str(tmp_path / "script.py"), str(tmp_path / "job.json")], check=True, env=environment)

    one = pretrain(
        PretrainConfig(**config), rows, tiny_model, seed=0, store=ArtifactStore(tmp_path / "one"), tracker=NullTracker()
    )
    two = ArtifactStore(tmp_path / "two").find("model", one.fingerprint)
    assert two is not None
    expected = load_file(one.file("model") / "model.safetensors")
    for name, weight in load_file(two.file("model") / "model.safetensors").items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)
    scored = [
        [step["train/scored_tokens"] for step in json.loads(ref.file("history.json").read_text())] for ref in (one, two)
    ]
    assert scored[0] == scored[1]
    assert [line.step for line in Spool(tmp_path / "spool.jsonl").read()[0]] == [1, 2, 3]  # one process measures
