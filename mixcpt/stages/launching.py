"""Starts worker processes: one that stays for all batches of a run on a CPU, one for each batch on GPUs."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from mixcpt.config import RuntimeConfig
from mixcpt.process.devices import usable_devices
from mixcpt.process.supervisor import Supervisor, supervised
from mixcpt.stages.jobs import Batch
from mixcpt.stages.registry import find_stage
from mixcpt.stages.worker_pool import WorkerPool
from mixcpt.store.artifacts import ArtifactStore

_WORKER = "mixcpt.stages.worker"
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""Bounds for glibc, in bytes, so that the tensors of a step reuse the memory of the previous step. By default, that
memory is returned to the system and allocated again page by page, for up to a tenth of a small training's time."""
_pool = WorkerPool(_WORKER)


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
    """Start the worker, if one stays for all batches, so that it imports the libraries in the background."""
    if _may_stay() and not runtime.gpu_pool:
        _pool.prepare(ArtifactStore(runtime.store).root, worker_environment(runtime.num_threads))


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

    Without a GPU, one process stays for all batches of a run, so that the libraries are imported once.

    Args:
        batch: Jobs to run.
        runtime: Numbers of processes and threads, and the launcher.
        distributed: Whether to start `runtime.num_processes` processes instead of one.
        variables: Additional environment variables.
        keep_open: File descriptors, such as locks, that stay open while the process lives.
    """
    environment = {**worker_environment(runtime.num_threads), **variables}
    if distributed or not _may_stay() or not any(find_stage(job.stage).needs_torch for job in batch.jobs):
        launch = (runtime.num_processes, runtime.launcher) if distributed else ()
        command = worker_command(batch, *launch)
        with supervised(command, log_path=batch.log, environment=environment, keep_open=keep_open) as process:
            yield process
    else:
        with _pool.run(batch, environment) as worker:
            yield worker


def end_idle_workers() -> None:
    """End the workers of this process that wait for batches, and wait for their end."""
    _pool.close()


def _may_stay() -> bool:
    """Return whether a worker stays for the next batch; with GPUs it ends, to release the memory of its devices."""
    return not usable_devices()
