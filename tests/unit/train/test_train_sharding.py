"""Two gloo processes with sharded parameters train the weights of one, and write checkpoints that one can read."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from transformers import PreTrainedModel

from mixcpt.distill.loss import Teacher, distillation_loss
from mixcpt.distill.model import head_of, hidden_states
from mixcpt.errors import ConfigError
from mixcpt.store.models import ModelRef, load_model
from mixcpt.train.sharding import sharding_arguments, through
from tests.unit.distill.objectives import terms

ROWS, ROW_TOKENS, VOCAB, STEPS = 4, 16, 40, 3
OBJECTIVE = terms(0.5, 0.5, "swap", temperature=2.0)
SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from safetensors.torch import save_file
from accelerate import Accelerator
from mixcpt.store.models import ModelRef, load_model
from mixcpt.train.sharding import gathered_state, shard
from tests.unit.distill.objectives import terms
from tests.unit.train.test_train_sharding import loss_of, optimizer_of, student_of

job = json.loads(open(sys.argv[1]).read())
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (dist.get_world_size(),))
base = ModelRef.from_json(job["base"])
student = shard(student_of(base), mesh)
teacher = shard(load_model(base).requires_grad_(False), mesh)
optimizer = optimizer_of(student)
if job["resume"]:
    state = {"model": get_model_state_dict(student), "optimizer": get_optimizer_state_dict(student, optimizer)}
    dcp.load(state, checkpoint_id=job["resume"])
    set_model_state_dict(student, state["model"])
    set_optimizer_state_dict(student, optimizer, state["optimizer"])
rank, world = dist.get_rank(), dist.get_world_size()
for step in range(*job["steps"]):
    optimizer.zero_grad()
    # FSDP averages over the processes, but the step needs the sum
    loss_of(student, teacher, step, slice(rank, None, world), world).backward()
    optimizer.step()
    if step + 1 == job["checkpoint"]:
        state = {"model": get_model_state_dict(student), "optimizer": get_optimizer_state_dict(student, optimizer)}
        dcp.save(state, checkpoint_id=job["folder"] + "/checkpoint")
weights = gathered_state(Accelerator(cpu=True), student)
if rank == 0:
    save_file({name: weight.contiguous() for name, weight in weights.items()}, job["folder"] + "/weights.safetensors")
dist.destroy_process_group()
"""


def student_of(base: ModelRef) -> PreTrainedModel:
    """Return the base model with noise on its weights, so that teacher and student differ from the start."""
    student = load_model(base)
    generator = torch.Generator().manual_seed(3)
    for weight in student.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    return student


def optimizer_of(student: PreTrainedModel) -> torch.optim.Optimizer:
    return torch.optim.AdamW(student.parameters(), lr=1e-2)


def loss_of(
    student: PreTrainedModel, teacher: PreTrainedModel, step: int, rows: slice, num_processes: int
) -> torch.Tensor:
    """Return the loss of some rows of a step, as the trainer computes it."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(4, VOCAB, (ROWS, ROW_TOKENS), generator=generator)[rows]
    positions = torch.arange(ROW_TOKENS).remainder(8).expand_as(ids)
    labels = torch.where(positions == 0, -100, ids)
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100).flatten()
    with torch.no_grad():
        known = through(teacher, teacher, lambda: (hidden_states(teacher, ids, positions), head_of(teacher)))

    def compute() -> torch.Tensor:
        hidden = hidden_states(student, ids, positions).flatten(0, 1)
        taught = Teacher(known[0].flatten(0, 1), known[1])
        return distillation_loss(
            hidden, head_of(student), targets, OBJECTIVE, normaliser=ROWS * 14 / num_processes, teacher=taught
        ).loss

    return through(student, student, compute)  # type: ignore[no-any-return]


def trained_alone(base: ModelRef, folder: Path | None = None, steps: range = range(STEPS)) -> dict[str, torch.Tensor]:
    """Train in one process, from the checkpoint in `folder` if it exists, and return the weights."""
    student, teacher = student_of(base), load_model(base)
    optimizer = optimizer_of(student)
    if folder:
        state = {"model": get_model_state_dict(student), "optimizer": get_optimizer_state_dict(student, optimizer)}
        dcp.load(state, checkpoint_id=folder)
        student.load_state_dict(state["model"])
        restore = torch.distributed.checkpoint.state_dict.set_optimizer_state_dict
        restore(student, optimizer, state["optimizer"])
    for step in steps:
        optimizer.zero_grad()
        loss_of(student, teacher, step, slice(None), 1).backward()
        optimizer.step()
    return student.state_dict()


def run_processes(folder: Path, base: ModelRef, num_processes: int, **job: object) -> dict[str, torch.Tensor]:
    """Train in several processes, and return the weights."""
    from safetensors.torch import load_file

    folder.mkdir(exist_ok=True)
    (folder / "job.json").write_text(json.dumps({"base": base.to_json(), "folder": str(folder), **job}))
    (folder / "script.py").write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={num_processes}", f"--master-port={free_port()}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    command = [sys.executable, *torchrun, str(folder / "script.py"), str(folder / "job.json")]
    subprocess.run(command, check=True, env=environment)
    return load_file(folder / "weights.safetensors")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def assert_close(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=2e-5)


def test_sharded_processes_train_the_weights_of_one_and_another_number_goes_on(
    tiny_model: ModelRef, tmp_path: Path
) -> None:
    expected = trained_alone(tiny_model)
    two = run_processes(tmp_path / "two", tiny_model, 2, steps=[0, STEPS], checkpoint=2, resume="")
    assert_close(two, expected)
    checkpoint = tmp_path / "two" / "checkpoint"
    assert len(list(checkpoint.glob("*.distcp"))) == 2  # each process wrote its own part
    assert_close(trained_alone(tiny_model, checkpoint, range(2, STEPS)), expected)


def test_sharding_without_several_gpus_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"runtime\.sharding is full"):
        sharding_arguments("full", recompute=False)
    assert sharding_arguments("none", recompute=True) == {}
