"""Supervised commands with real processes: none outlives its caller."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mixcpt.errors import MixcptError
from mixcpt.process.supervisor import follow, supervised
from tests.processes import alive, pids, wait_until

STUBBORN = """
    import os, signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    with open(sys.argv[1] + ".new", "w") as stream:
        stream.write(f"{os.getpid()} {grandchild.pid}")
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    time.sleep(600)
"""
SLEEPER = """
    import os, sys, time
    with open(sys.argv[1] + ".new", "w") as stream:
        stream.write(str(os.getpid()))
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    time.sleep(600)
"""


def script(path: Path, text: str) -> Path:
    path.write_text(textwrap.dedent(text))
    return path


def run(command: list[str], tmp_path: Path, **options: object) -> int:
    with supervised(command, log_path=tmp_path / "log.txt", environment={}) as process:
        return follow(process, tick_seconds=0.05, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [0, 3])
def test_supervisor_normal_end_returns_the_exit_code(tmp_path: Path, code: int) -> None:
    assert run([sys.executable, "-c", f"raise SystemExit({code})"], tmp_path) == code


def test_supervisor_killed_command_gives_128_plus_signal(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    assert run(command, tmp_path) == 128 + signal.SIGKILL


def test_supervisor_output_and_environment_reach_the_log_and_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os, sys; print(os.environ['COLOUR']); print('bad', file=sys.stderr)"]
    with supervised(command, log_path=tmp_path / "deep" / "log.txt", environment={"COLOUR": "green"}) as process:
        follow(process)
    assert (tmp_path / "deep" / "log.txt").read_text().split() == ["green", "bad"]


def test_supervisor_stop_ends_stubborn_children_and_grandchildren(tmp_path: Path) -> None:
    command = [sys.executable, str(script(tmp_path / "stubborn.py", STUBBORN)), str(tmp_path / "pids")]
    with supervised(command, log_path=tmp_path / "log.txt", environment={}, grace_seconds=0.3):
        started = pids(tmp_path / "pids")
        assert all(alive(pid) for pid in started)
    assert not any(alive(pid) for pid in started)


def test_supervisor_polite_command_may_clean_up_before_it_ends(tmp_path: Path) -> None:
    text = """
        import signal, sys, time
        def stop(number, frame):
            open(sys.argv[1] + ".cleaned", "w").close()
            raise SystemExit(7)
        signal.signal(signal.SIGTERM, stop)
        open(sys.argv[1], "w").close()
        time.sleep(600)
    """
    ready = tmp_path / "ready"
    code = run(
        [sys.executable, str(script(tmp_path / "polite.py", text)), str(ready)], tmp_path, should_stop=ready.exists
    )
    assert code == 7
    assert (tmp_path / "ready.cleaned").exists()


def test_supervisor_timeout_ends_the_command_and_names_the_setting(tmp_path: Path) -> None:
    command = ["sh", "-c", f"echo $$ > {tmp_path / 'pids'}; exec sleep 600"]  # writes long before the limit
    with pytest.raises(MixcptError, match=r"runtime\.timeout_seconds") as caught:
        run(command, tmp_path, timeout_seconds=2.0)
    assert not caught.value.retryable
    assert not any(alive(pid) for pid in pids(tmp_path / "pids"))


def test_supervisor_error_while_waiting_ends_the_command(tmp_path: Path) -> None:
    def fail_once_it_runs() -> None:
        if (tmp_path / "pids").exists():
            raise KeyboardInterrupt

    command = [sys.executable, str(script(tmp_path / "sleeper.py", SLEEPER)), str(tmp_path / "pids")]
    with pytest.raises(KeyboardInterrupt):
        run(command, tmp_path, on_tick=fail_once_it_runs)
    assert not any(alive(pid) for pid in pids(tmp_path / "pids"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_supervisor_dead_caller_leaves_no_orphan(tmp_path: Path, number: signal.Signals) -> None:
    stubborn = script(tmp_path / "stubborn.py", STUBBORN)
    text = f"""
        import sys
        from pathlib import Path
        from mixcpt.process.supervisor import supervised
        command = [sys.executable, {str(stubborn)!r}, {str(tmp_path / "pids")!r}]
        log = Path({str(tmp_path / "log.txt")!r})
        with supervised(command, log_path=log, environment={{}}, grace_seconds=0.3) as process:
            Path({str(tmp_path / "supervisor")!r}).write_text(str(process.pid))
            process.wait()
    """
    caller = subprocess.Popen([sys.executable, str(script(tmp_path / "caller.py", text))])
    everything = [*pids(tmp_path / "pids"), *pids(tmp_path / "supervisor")]
    assert len(everything) == 3
    os.kill(caller.pid, number)
    caller.wait()
    wait_until(lambda: not any(alive(pid) for pid in everything), seconds=30)


def test_supervisor_command_that_leaves_children_behind_ends_with_them(tmp_path: Path) -> None:
    text = """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        open(sys.argv[1], "w").write(str(child.pid))
    """
    assert run([sys.executable, str(script(tmp_path / "leaver.py", text)), str(tmp_path / "pids")], tmp_path) == 0
    assert not any(alive(pid) for pid in pids(tmp_path / "pids"))
