"""Which GPUs of this machine a stage takes: a lock for each, which the kernel frees when its last holder dies.

The locks lie in one folder of the machine, so that runs of every user, store and worker see each other. Who takes
several devices takes them all at once or none, so nobody waits for a device while keeping one from somebody else.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mixcpt.config import RuntimeConfig
from mixcpt.errors import ConfigError, MixcptError

VISIBLE = "CUDA_VISIBLE_DEVICES"
COUNT = "MIXCPT_GPUS"
"""Variable that says how many GPUs there are, where the driver cannot be asked, or in a test."""
LOCKS = "MIXCPT_DEVICE_LOCKS"
"""Variable that names another folder of locks."""
_DEFAULT_LOCKS = Path("/tmp/mixcpt-devices")  # the same for every user, whatever TMPDIR says
_DRIVER = Path("/proc/driver/nvidia/gpus")
_LISTED = re.compile(r"UUID:\s*([^\s)]+)")
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Holder:
    """Who has a device."""

    run: str
    since_seconds: float
    """Unix time."""

    def __str__(self) -> str:
        return f"{self.run} since {datetime.fromtimestamp(self.since_seconds):%d %b %H:%M}"


@dataclass(frozen=True)
class Claim:
    """Devices that this process has locked."""

    devices: tuple[str, ...]
    descriptors: tuple[int, ...] = ()
    """The open lock files; a child that inherits them keeps the devices locked while it lives."""

    def release(self) -> None:
        """Gives the devices back, once every child that inherited them has ended too."""
        for descriptor in self.descriptors:
            os.close(descriptor)


@dataclass(frozen=True)
class Busy:
    """Too few devices are free."""

    wanted: int
    usable: int
    holders: tuple[Holder, ...]

    def __str__(self) -> str:
        runs = " and ".join(sorted({str(holder) for holder in self.holders}))
        return f"waiting for {self.wanted} of {self.usable} GPU{'s' if self.usable > 1 else ''}, held by {runs}"


def num_wanted(runtime: RuntimeConfig, num_usable: int, *, distributed: bool) -> int:
    """Returns how many GPUs of this machine a stage takes.

    Raises:
        ConfigError: If it asks for more than there are.
    """
    if runtime.devices == 0 or (runtime.devices < 0 and not num_usable):
        return 0
    wanted = _num_for_training(runtime) if distributed else 1
    if wanted > num_usable:
        raise ConfigError(
            f"training takes {wanted} GPUs of this machine, and {num_usable} can be used here "
            f"(runtime.num_processes {runtime.num_processes}, runtime.devices {runtime.devices}, "
            f"{VISIBLE} {os.environ.get(VISIBLE, 'is not set')})",
            "lower them, or set runtime.devices to 0 to train on the CPU",
        )
    return wanted


def device_environment(runtime: RuntimeConfig, claim: Claim) -> dict[str, str]:
    """Returns the variable by which a child sees the claimed devices alone; without a claim it sees what we see."""
    if runtime.devices == 0:
        return {VISIBLE: ""}
    return {VISIBLE: ",".join(claim.devices)} if claim.devices else {}


def _num_for_training(runtime: RuntimeConfig) -> int:
    if runtime.devices > 0:
        return runtime.devices
    return 0 if runtime.launcher else runtime.num_processes


def usable_devices(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Returns the GPUs that this process may use: those of CUDA_VISIBLE_DEVICES where it is set, else all."""
    machine = _devices_of_machine(environment)
    if VISIBLE not in environment:
        return machine
    chosen: list[str] = []
    for name in environment[VISIBLE].split(","):
        device = _resolve(name.strip(), machine)
        if device is None:  # CUDA too stops reading at the first name that it does not know, such as -1
            break
        chosen.append(device)
    return tuple(chosen)


def _resolve(name: str, machine: Sequence[str]) -> str | None:
    """Returns the device with this number, or the beginning of whose identity this is."""
    if name.isdigit():
        return machine[int(name)] if int(name) < len(machine) else None
    return next((device for device in machine if name and device.startswith(name)), None)


def _devices_of_machine(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the identities of all GPUs in the driver's order; a number each where only their count is known."""
    if count := environment.get(COUNT, ""):
        if not count.isdigit():
            raise ConfigError(f"the variable {COUNT} is {count!r}, no number of GPUs")
        return tuple(map(str, range(int(count))))
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "-L"]
        listing = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False)
        return parse_listing(listing.stdout)
    texts = (path.read_text() for path in sorted(_DRIVER.glob("*/information")))
    return tuple(found.group(1) for text in texts if (found := _LISTED.search(text)))


def parse_listing(listing: str) -> tuple[str, ...]:
    """Returns the identities in what `nvidia-smi -L` prints; of a GPU cut into parts (MIG), those of its parts."""
    found: list[str] = []
    whole = ""
    for line in listing.splitlines():
        if match := _LISTED.search(line):
            is_part = match.group(1).startswith("MIG-")
            if is_part and found and found[-1] == whole:
                found.pop()
            whole = whole if is_part else match.group(1)
            found.append(match.group(1))
    return tuple(found)


def try_claim(usable: Sequence[str], wanted: int, run: str) -> Claim | Busy:
    """Returns `wanted` of the devices, locked for this process and told to be `run`'s, or who has them.

    Raises:
        MixcptError: If the locks cannot be written.
    """
    folder = Path(os.environ.get(LOCKS, _DEFAULT_LOCKS))
    try:
        with _alone(folder):
            return _choose(folder, usable, wanted, run)
    except OSError as error:
        raise MixcptError(
            f"cannot write the locks of the GPUs below {folder}: {error.strerror}",
            f"set {LOCKS} to a folder that everybody who trains on this machine can write",
        ) from error


def _choose(folder: Path, usable: Sequence[str], wanted: int, run: str) -> Claim | Busy:
    free: dict[str, int] = {}
    holders: list[Holder] = []
    for device in usable:
        if len(free) == wanted:
            break
        descriptor = _open(folder / f"{device.replace('/', '_')}.lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free[device] = descriptor
        except BlockingIOError:
            holders.append(_read_note(descriptor))
            os.close(descriptor)
    claim = Claim(tuple(free), tuple(free.values()))
    if len(free) < wanted:
        claim.release()
        return Busy(wanted, len(usable), tuple(holders))
    for descriptor in claim.descriptors:
        _write_note(descriptor, Holder(run, time.time()))
    return claim


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lets one process at a time look for devices: two that want the same pair would take one each, and give up."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)
    descriptor = _open(folder / "choosing.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """Returns a descriptor of a file that every user can lock.

    An existing file is opened without O_CREAT, with which Linux refuses another user's file in a shared folder.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        pass
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:  # somebody was faster
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    os.fchmod(descriptor, 0o666)
    return descriptor


def _write_note(descriptor: int, holder: Holder) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(vars(holder)).encode(), 0)


def _read_note(descriptor: int) -> Holder:
    try:
        return Holder(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):  # locked by somebody who writes no notes
        return Holder("another program", os.fstat(descriptor).st_mtime)
