"""Starts worker processes: from a command, or forked from a server that has imported the libraries already."""

import atexit
import json
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mixcpt.config import RuntimeConfig
from mixcpt.process.devices import usable_devices
from mixcpt.process.forkserver import ForkServer
from mixcpt.process.supervisor import Supervisor, supervised
from mixcpt.stages.jobs import Batch
from mixcpt.stages.registry import find_stage
from mixcpt.store.artifacts import ArtifactStore

_WORKER = "mixcpt.stages.worker"
_PRELOADED = (
    "mixcpt.train.pretrain",
    "mixcpt.evaluate.asking.harness",
    "mixcpt.align.trl_adapter",
    "mixcpt.planning.stage",
    "scipy.stats",
)
"""Modules that import torch, transformers, lm-eval, trl and scipy, which takes seconds."""
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""Bounds for glibc, in bytes, so that the tensors of a step reuse the memory of the step before. By default that memory
goes back to the system and is taken again page by page, for up to a tenth of the time of a small training."""
_fork_servers: dict[str, ForkServer] = {}
_fork_servers_lock = threading.Lock()


def worker_command(batch: Batch, num_processes: int = 1, launcher: str = "") -> list[str]:
    """Return the command that runs a batch, with `launcher`, else with torchrun for several processes.

    A launcher may start processes on several machines; all of them must see the store.
    """
    if launcher:
        return [*shlex.split(launcher), "-m", _WORKER, str(batch.path)]
    if num_processes == 1:
        return [sys.executable, "-m", _WORKER, str(batch.path)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    return [sys.executable, *torchrun, "-m", _WORKER, str(batch.path)]


def worker_environment(num_threads: int) -> dict[str, str]:
    """Return the environment variables of a worker; with `num_threads` 0, torch chooses the number of threads."""
    threads = {"OMP_NUM_THREADS": str(num_threads), "MKL_NUM_THREADS": str(num_threads)} if num_threads else {}
    always = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    return {**always, **_KEPT_MEMORY, **threads}


def prepare_workers(runtime: RuntimeConfig) -> None:
    """Start to import the libraries of the stages in the background, if workers are forked."""
    if _may_fork() and not runtime.gpu_pool:
        _fork_server(ArtifactStore(runtime.store).root, worker_environment(runtime.num_threads))


@contextmanager
def worker_process(
    batch: Batch,
    runtime: RuntimeConfig,
    *,
    distributed: bool = False,
    variables: Mapping[str, str] = MappingProxyType({}),
    keep_open: Sequence[int] = (),
) -> Iterator[Supervisor]:
    """Start a process that runs a batch, and yield its supervisor; the batch must be written already.

    On Linux without a GPU the process is forked from one that has imported the libraries, so that a run imports them
    once.

    Args:
        batch: Jobs to run.
        runtime: Numbers of processes and threads, and the launcher.
        distributed: Whether to start as many processes as `runtime` says, instead of one.
        variables: Environment variables in addition to those of every worker.
        keep_open: File descriptors, such as locks, that stay open while the process lives.
    """
    environment = worker_environment(runtime.num_threads)
    arguments: dict[str, Any] = {"log_path": batch.log, "environment": {**environment, **variables}, "keep_open": keep_open}
    if distributed or not _may_fork() or not any(find_stage(job.stage).needs_torch for job in batch.jobs):
        launch = (runtime.num_processes, runtime.launcher) if distributed else ()
        with supervised(worker_command(batch, *launch), **arguments) as process:
            yield process
    else:
        server = _fork_server(Path(batch.store), environment)
        with server.call(f"{_WORKER}:main", str(batch.path), **arguments) as call:
            yield call


def _may_fork() -> bool:
    """Return whether workers are forked; a process that has used CUDA, or macOS's frameworks, must not be."""
    return sys.platform == "linux" and not usable_devices()


def _fork_server(store: Path, environment: Mapping[str, str]) -> ForkServer:
    """Start the fork server for workers of this environment, or return the running one; it ends with this process."""
    with _fork_servers_lock:
        key = json.dumps(environment, sort_keys=True)
        if key not in _fork_servers or not _fork_servers[key].lives:
            log = store / "logs" / "forkserver.txt"
            _fork_servers[key] = ForkServer(_PRELOADED, log_path=log, environment=environment)
            atexit.register(_fork_servers[key].close)
        return _fork_servers[key]
