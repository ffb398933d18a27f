"""Staying workers: batches share a process, and the death of a worker or caller leaves no process behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mixcpt.process.supervisor import follow
from mixcpt.stages.jobs import Batch, Job
from mixcpt.stages.worker_pool import WorkerPool
from tests.processes import alive, pids, wait_until

STAYING = """
import os, subprocess, sys, time
from pathlib import Path
from mixcpt.stages import worker

def main(path):
    folder = Path(path).parent
    match (folder / "act").read_text().split():
        case ["print", text]:
            print(text, os.getpid())
            print("bad", file=sys.stderr)
            return 3
        case ["fail"]:
            raise ValueError("bad luck")
        case ["sleep"]:
            child = subprocess.Popen(["sleep", "600"])
            (folder / "pids").write_text(f"{os.getpid()} {child.pid}")
            time.sleep(600)

worker.main, worker._PRELOADED = main, ()
if __name__ == "__main__":
    worker.stay(int(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    (tmp_path / "staying.py").write_text(STAYING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    pool = WorkerPool("staying")
    yield pool
    pool.close()


def batch(store: Path, act: str) -> Batch:
    created = Batch.in_store((Job(name="curate", stage="curate", config={}, seed=0),), store)
    (Path(created.folder) / "act").write_text(act)
    return created


def run(pool: WorkerPool, started: Batch) -> int:
    with pool.run(started, {}) as worker:
        return follow(worker, tick_seconds=0.05)


def test_batches_share_a_process_and_have_separate_logs(pool: WorkerPool, tmp_path: Path) -> None:
    first, second = batch(tmp_path, "print one"), batch(tmp_path, "print two")
    assert (run(pool, first), run(pool, second)) == (3, 3)
    logs = [created.log.read_text().split() for created in (first, second)]
    assert [(log[0], log[2]) for log in logs] == [("one", "bad"), ("two", "bad")]
    assert logs[0][1] == logs[1][1]


def test_failed_batch_leaves_its_traceback_in_the_log_and_the_worker_stays(pool: WorkerPool, tmp_path: Path) -> None:
    failed = batch(tmp_path, "fail")
    assert run(pool, failed) == 1
    assert "ValueError: bad luck" in failed.log.read_text()
    assert run(pool, batch(tmp_path, "print on")) == 3
    assert len(list((tmp_path / "logs").iterdir())) == 1


def test_batches_at_the_same_time_have_different_processes(pool: WorkerPool, tmp_path: Path) -> None:
    sleeping = batch(tmp_path, "sleep")
    with pool.run(sleeping, {}) as worker:
        pids(Path(sleeping.folder) / "pids")
        assert run(pool, batch(tmp_path, "print now")) == 3
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(0.1)


def test_killed_worker_returns_137_and_the_next_batch_uses_another(pool: WorkerPool, tmp_path: Path) -> None:
    sleeping = batch(tmp_path, "sleep")
    with pool.run(sleeping, {}) as worker:
        computing, child = pids(Path(sleeping.folder) / "pids")
        os.kill(computing, signal.SIGKILL)
        assert worker.wait(60.0) == 128 + signal.SIGKILL
    assert not alive(child)
    assert run(pool, batch(tmp_path, "print again")) == 3


def test_worker_that_died_while_idle_is_replaced_by_the_retry_at_the_latest(pool: WorkerPool, tmp_path: Path) -> None:
    first = batch(tmp_path, "print one")
    run(pool, first)
    idle = int(first.log.read_text().split()[1])
    os.kill(idle, signal.SIGKILL)
    wait_until(lambda: not alive(idle), seconds=30)
    codes = [run(pool, batch(tmp_path, "print again")) for _ in range(2)]
    assert codes in ([3, 3], [128 + signal.SIGKILL, 3])  # its supervisor may not have noticed yet


def test_interrupted_batch_ends_with_all_its_children(pool: WorkerPool, tmp_path: Path) -> None:
    sleeping = batch(tmp_path, "sleep")
    with pytest.raises(KeyboardInterrupt), pool.run(sleeping, {}):
        children = pids(Path(sleeping.folder) / "pids")
        raise KeyboardInterrupt
    assert not any(map(alive, children))


def test_cancelled_batch_ends_with_all_its_children(pool: WorkerPool, tmp_path: Path) -> None:
    sleeping = batch(tmp_path, "sleep")
    with pool.run(sleeping, {}) as worker:
        children = pids(Path(sleeping.folder) / "pids")
        assert follow(worker, tick_seconds=0.05, should_stop=lambda: True) != 0
    assert not any(map(alive, children))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_dead_caller_leaves_no_orphan(pool: WorkerPool, tmp_path: Path, number: signal.Signals) -> None:
    sleeping = batch(tmp_path, "sleep")
    sleeping.write()
    code = f"""
from pathlib import Path
from mixcpt.stages.jobs import Batch
from mixcpt.stages.worker_pool import WorkerPool
with WorkerPool("staying").run(Batch.read(Path({str(sleeping.path)!r})), {{}}) as worker:
    worker.wait()
"""
    with subprocess.Popen([sys.executable, "-c", code]) as caller:
        children = pids(Path(sleeping.folder) / "pids")
        family = [process.pid for process in psutil.Process(caller.pid).children(recursive=True)]
        assert set(children) <= set(family)
        caller.send_signal(number)
        caller.wait()
    wait_until(lambda: not any(map(alive, family)), seconds=30)
