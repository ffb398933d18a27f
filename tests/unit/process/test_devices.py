"""GPU claims: only visible devices, locks across processes, release when the last holder dies."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

from mixcpt.config import RuntimeConfig
from mixcpt.errors import ConfigError, MixcptError
from mixcpt.process.devices import (
    COUNT,
    LOCKS,
    VISIBLE,
    Busy,
    DeviceClaim,
    device_environment,
    num_wanted,
    parse_listing,
    try_claim,
    usable_devices,
)

LISTING = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb)
  MIG 3g.40gb     Device  0: (UUID: MIG-b1)
  MIG 3g.40gb     Device  1: (UUID: MIG-b2)
GPU 2: NVIDIA H100 80GB HBM3 (UUID: GPU-cccc)
"""
HOLDER = """
    import sys, time
    from mixcpt.process.devices import try_claim
    claim = try_claim(sys.argv[1].split(","), int(sys.argv[2]), "run other")
    print(",".join(claim.devices), flush=True)
    time.sleep(600)
"""
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(LOCKS, str(tmp_path / "locks"))
    return tmp_path / "locks"


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


def start(tmp_path: Path, text: str, *arguments: str) -> "subprocess.Popen[str]":
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(text))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(path), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def claimed(usable: tuple[str, ...], wanted: int) -> DeviceClaim:
    answer = try_claim(usable, wanted, "run mine")
    assert isinstance(answer, DeviceClaim), answer
    return answer


@pytest.mark.parametrize(
    ("visible", "chosen"),
    [
        (None, ("0", "1", "2")),
        ("2,0", ("2", "0")),
        ("1", ("1",)),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),
        ("7", ()),
    ],
)
def test_usable_devices_match_cuda(visible: str | None, chosen: tuple[str, ...]) -> None:
    environment = {COUNT: "3"} | ({} if visible is None else {VISIBLE: visible})
    assert usable_devices(environment) == chosen


def test_usable_devices_without_gpus_are_none() -> None:
    assert usable_devices({COUNT: "0", VISIBLE: "0,1"}) == ()


def test_usable_devices_invalid_count_is_refused() -> None:
    with pytest.raises(ConfigError, match="MIXCPT_GPUS is 'many'"):
        usable_devices({COUNT: "many"})


def test_listing_gives_identities_and_mig_parts() -> None:
    assert parse_listing(LISTING) == ("GPU-aaaa", "MIG-b1", "MIG-b2", "GPU-cccc")
    assert parse_listing("No devices were found") == ()


@pytest.mark.parametrize(
    ("settings", "usable", "distributed", "wanted"),
    [
        ({}, 0, False, 0),
        ({}, 4, False, 1),
        ({"num_processes": 2}, 0, True, 0),
        ({"num_processes": 2}, 4, True, 2),
        ({"num_processes": 2}, 4, False, 1),
        ({"num_processes": 2, "devices": 0}, 4, True, 0),
        ({"num_processes": 2, "devices": 2}, 4, True, 2),
        ({"num_processes": 16, "launcher": "srun torchrun"}, 4, True, 0),
        ({"num_processes": 16, "launcher": "srun torchrun", "devices": 4}, 4, True, 4),
    ],
)
def test_wanted_devices_follow_processes_launcher_and_settings(
    settings: dict[str, object], usable: int, distributed: bool, wanted: int
) -> None:
    runtime = RuntimeConfig.model_validate(settings)
    assert num_wanted(runtime, usable, distributed=distributed) == wanted


@pytest.mark.parametrize(("settings", "usable"), [({"num_processes": 2}, 1), ({"devices": 1}, 0)])
def test_wanted_devices_more_than_usable_are_refused(settings: dict[str, object], usable: int) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.devices"):
        num_wanted(RuntimeConfig.model_validate(settings), usable, distributed=True)


def test_devices_other_than_processes_are_refused_by_the_settings() -> None:
    with pytest.raises(ValidationError, match="set both to the same number"):
        RuntimeConfig(num_processes=2, devices=1)


def test_child_sees_only_its_devices_and_none_if_devices_is_zero() -> None:
    assert device_environment(RuntimeConfig(), DeviceClaim(("GPU-a", "GPU-b"))) == {VISIBLE: "GPU-a,GPU-b"}
    assert device_environment(RuntimeConfig(), DeviceClaim(())) == {}
    assert device_environment(RuntimeConfig(devices=0), DeviceClaim(())) == {VISIBLE: ""}


def test_claim_of_another_process_is_respected_and_freed_by_its_death(tmp_path: Path) -> None:
    other = start(tmp_path, HOLDER, "0,1", "1")
    assert first_line(other) == "0"
    mine = claimed(("0", "1"), 1)
    assert mine.devices == ("1",)
    busy = try_claim(("0", "1"), 1, "run third")
    assert isinstance(busy, Busy)
    assert str(busy).startswith("waiting for 1 of 2 GPUs, held by run mine since ")
    assert " and run other since " in str(busy)
    other.kill()
    other.wait()
    freed = claimed(("0", "1"), 1)
    assert freed.devices == ("0",)
    for claim in (mine, freed):
        claim.release()


def test_claim_of_several_takes_none_if_one_is_missing(tmp_path: Path) -> None:
    first = claimed(("0",), 1)
    assert isinstance(try_claim(("0", "1"), 2, "run big"), Busy)
    second = claimed(("1",), 1)  # the failed attempt kept no lock
    first.release()
    second.release()
    both = claimed(("0", "1"), 2)
    assert both.devices == ("0", "1")
    both.release()


def test_claim_lasts_until_the_supervised_command_is_dead_too(tmp_path: Path) -> None:
    text = f"""
        import sys
        from pathlib import Path
        from mixcpt.process.devices import try_claim
        from mixcpt.process.supervisor import supervised
        stubborn = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " \\
            "open('{tmp_path}/pid.new', 'w').write(str(os.getpid())); " \\
            "os.rename('{tmp_path}/pid.new', '{tmp_path}/pid'); time.sleep(600)"
        claim = try_claim(["0"], 1, "run other")
        with supervised([sys.executable, "-c", stubborn], log_path=Path('{tmp_path}/log.txt'), environment={{}},
                        grace_seconds=0.5, keep_open=claim.descriptors) as process:
            process.wait()
    """
    caller = start(tmp_path, text)
    wait_until((tmp_path / "pid").exists)
    command = psutil.Process(int((tmp_path / "pid").read_text()))
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    assert isinstance(try_claim(["0"], 1, "run mine"), Busy)  # the command ignores SIGTERM
    answers: list[DeviceClaim] = []

    def is_free() -> bool:
        answer = try_claim(["0"], 1, "run mine")
        answers.extend([answer] if isinstance(answer, DeviceClaim) else [])
        return bool(answers)

    wait_until(is_free)
    assert not command.is_running() or command.status() == psutil.STATUS_ZOMBIE
    answers[0].release()


def test_claim_in_a_read_only_folder_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(LOCKS, str(tmp_path / "file" / "below"))
    with pytest.raises(MixcptError, match="locks of the GPUs") as caught:
        try_claim(["0"], 1, "run")
    assert LOCKS in caught.value.hint
