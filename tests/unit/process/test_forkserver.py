"""The server that forks itself for each call: what a call gets, how it ends, and that it never outlives its caller."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from mixcpt.errors import StageInterrupted
from mixcpt.process.forkserver import Call, ForkServer
from mixcpt.process.supervisor import follow
from tests.processes import alive, pids, wait_until

CALLS = """
import os, signal, subprocess, sys, time
from pathlib import Path

IMPORTED_BY = os.getpid()

def answer(argument):
    print(argument, os.environ["COLOUR"], os.getcwd())
    print("bad", file=sys.stderr)
    return 3

def say_parents(argument):
    Path(argument).write_text(f"{IMPORTED_BY} {os.getpid()}")
    return 0

def fail(argument):
    raise ValueError(argument)

def sleep(argument):
    child = subprocess.Popen(["sleep", "600"])
    Path(argument).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)

def clean_up(argument):
    def stop(number, frame):
        Path(argument + ".cleaned").touch()
        raise SystemExit
    signal.signal(signal.SIGTERM, stop)
    Path(argument).touch()
    time.sleep(600)

def interrupt(argument):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(600)
"""
Caller = Callable[..., AbstractContextManager[Call]]


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module with calls, on the path of the server."""
    (tmp_path / "some_calls.py").write_text(CALLS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return "some_calls"


@pytest.fixture
def server(tmp_path: Path, modules: str) -> Iterator[ForkServer]:
    running = ForkServer([modules], log_path=tmp_path / "server.txt", environment={})
    yield running
    running.close()


@pytest.fixture
def call(tmp_path: Path, server: ForkServer) -> Caller:
    def made(name: str, argument: object = "", **environment: str) -> AbstractContextManager[Call]:
        log = tmp_path / "logs" / "log.txt"
        return server.call(f"some_calls:{name}", str(argument), log_path=log, environment=environment)

    return made


def test_call_gets_argument_environment_and_folder_and_returns_its_code(call: Caller, tmp_path: Path) -> None:
    with call("answer", "red", COLOUR="green") as process:
        assert follow(process, tick_seconds=0.05) == 3
    assert (tmp_path / "logs" / "log.txt").read_text().split() == ["red", "green", str(Path.cwd()), "bad"]


def test_calls_are_forks_of_one_import(call: Caller, tmp_path: Path) -> None:
    seen = []
    for number in range(2):
        with call("say_parents", tmp_path / str(number)) as process:
            assert process.wait(60.0) == 0
        seen.append(pids(tmp_path / str(number)))
    assert seen[0][0] == seen[1][0]
    assert len({pid for both in seen for pid in both}) == 3


def test_calls_at_the_same_time_end_in_any_order(call: Caller, tmp_path: Path) -> None:
    with call("sleep", tmp_path / "long") as long:
        with call("answer", COLOUR="") as short:
            assert short.wait(60.0) == 3
        with pytest.raises(subprocess.TimeoutExpired):
            long.wait(0.1)
    assert not any(alive(pid) for pid in pids(tmp_path / "long"))


def test_failure_is_in_the_log_and_code_1(call: Caller, tmp_path: Path) -> None:
    with call("fail", "bad luck") as process:
        assert process.wait(60.0) == 1
    assert "ValueError: bad luck" in (tmp_path / "logs" / "log.txt").read_text()


def test_killed_call_gives_128_plus_signal(call: Caller, tmp_path: Path) -> None:
    with call("sleep", tmp_path / "pids") as process:
        first, *_ = pids(tmp_path / "pids")
        os.kill(first, signal.SIGKILL)
        assert process.wait(60.0) == 128 + signal.SIGKILL
    assert not any(alive(pid) for pid in pids(tmp_path / "pids"))


def test_keys_and_signals_mean_in_a_call_what_they_mean_in_a_command(call: Caller, tmp_path: Path) -> None:
    with call("interrupt") as process:
        assert process.wait(60.0) == 1
    assert "KeyboardInterrupt" in (tmp_path / "logs" / "log.txt").read_text()
    with call("clean_up", tmp_path / "ready") as process:
        follow(process, tick_seconds=0.05, should_stop=(tmp_path / "ready").exists)
    assert (tmp_path / "ready.cleaned").exists()


def test_descriptors_stay_open_as_long_as_the_call(server: ForkServer, tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    log = tmp_path / "log.txt"
    with server.call("some_calls:sleep", str(tmp_path / "pids"), log_path=log, environment={}, keep_open=[theirs]):
        os.close(theirs)
        pids(tmp_path / "pids")
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)
    os.set_blocking(ours, True)
    assert os.read(ours, 1) == b""  # the end: nobody holds it any more, the server neither
    os.close(ours)


def test_dead_server_is_told_and_ends_its_calls(call: Caller, server: ForkServer, tmp_path: Path) -> None:
    with call("sleep", tmp_path / "pids") as process:
        called = pids(tmp_path / "pids")
        (forking,) = psutil.Process(psutil.Process(process.pid).ppid()).parent().children()
        forking.kill()
        assert process.wait(60.0) != 0
    assert not any(alive(pid) for pid in called)
    with pytest.raises(StageInterrupted, match="forked from has died"), call("answer"):
        pass
    wait_until(lambda: not server.lives, seconds=30)  # its supervisor looks around before it ends too


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_dead_caller_leaves_no_orphan(tmp_path: Path, modules: str, number: signal.Signals) -> None:
    text = f"""
from pathlib import Path
from mixcpt.process.forkserver import ForkServer
server = ForkServer([{modules!r}], log_path=Path("server.txt"), environment={{}})
with server.call("some_calls:sleep", "pids", log_path=Path("log.txt"), environment={{}}) as process:
    process.wait()
"""
    (tmp_path / "caller.py").write_text(text)
    with subprocess.Popen([sys.executable, "caller.py"], cwd=tmp_path) as caller:
        called = pids(tmp_path / "pids")
        family = [process.pid for process in psutil.Process(caller.pid).children(recursive=True)]
        assert set(called) <= set(family)
        caller.send_signal(number)
        caller.wait()
    wait_until(lambda: not any(alive(pid) for pid in family), seconds=30)
