"""Claim GPUs of this machine for a stage, with one file lock per GPU.

The kernel releases a lock when its last holder dies, so a crash never blocks a GPU. All users, stores and workers
share one folder of locks. A stage claims all its GPUs at once or none: a waiting stage never blocks another one.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mixcpt.config import RuntimeConfig
from mixcpt.errors import ConfigError, MixcptError

VISIBLE = "CUDA_VISIBLE_DEVICES"
COUNT = "MIXCPT_GPUS"
"""Environment variable with the number of GPUs, for machines without a driver query and for tests."""
LOCKS = "MIXCPT_DEVICE_LOCKS"
"""Environment variable with another folder for the locks."""
_DEFAULT_LOCKS = Path("/tmp/mixcpt-devices")  # the same for every user, whatever TMPDIR says
_DRIVER = Path("/proc/driver/nvidia/gpus")
_LISTED = re.compile(r"UUID:\s*([^\s)]+)")
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Holder:
    """Run that holds a device."""

    run: str
    since_seconds: float
    """Unix time of the claim."""

    def __str__(self) -> str:
        return f"{self.run} since {datetime.fromtimestamp(self.since_seconds):%d %b %H:%M}"


@dataclass(frozen=True)
class DeviceClaim:
    """Devices that this process has locked."""

    devices: tuple[str, ...]
    descriptors: tuple[int, ...] = ()
    """Open lock files; a child that inherits them keeps the devices locked until it ends."""

    def release(self) -> None:
        """Release the devices; a child that inherited the locks still holds them until it ends."""
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
    """Return the number of GPUs that a stage needs on this machine.

    Raises:
        ConfigError: If it needs more than there are.
    """
    if runtime.devices == 0 or (runtime.devices < 0 and not num_usable):
        return 0
    num_processes_here = 0 if runtime.launcher else runtime.num_processes
    num_for_training = runtime.devices if runtime.devices > 0 else num_processes_here
    wanted = num_for_training if distributed else 1
    if wanted > num_usable:
        raise ConfigError(
            f"training needs {wanted} GPUs on this machine, but only {num_usable} can be used "
            f"(runtime.num_processes {runtime.num_processes}, runtime.devices {runtime.devices}, "
            f"{VISIBLE} {os.environ.get(VISIBLE, 'not set')})",
            "lower these settings, or set runtime.devices to 0 to train on the CPU",
        )
    return wanted


def device_environment(runtime: RuntimeConfig, claim: DeviceClaim) -> dict[str, str]:
    """Return the variable that limits a child to the claimed devices; empty if there is no claim."""
    if runtime.devices == 0:
        return {VISIBLE: ""}
    return {VISIBLE: ",".join(claim.devices)} if claim.devices else {}


def usable_devices(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the GPUs of CUDA_VISIBLE_DEVICES, or all GPUs if it is not set."""
    machine = _devices_of_machine(environment)
    if VISIBLE not in environment:
        return machine
    chosen: list[str] = []
    for name in environment[VISIBLE].split(","):
        device = _resolve(name.strip(), machine)
        if device is None:  # like CUDA, stop at the first unknown name, such as -1
            break
        chosen.append(device)
    return tuple(chosen)


def _resolve(name: str, machine: Sequence[str]) -> str | None:
    """Return the device with this number, or with an identity that begins with this text."""
    if name.isdigit():
        return machine[int(name)] if int(name) < len(machine) else None
    return next((device for device in machine if name and device.startswith(name)), None)


def _devices_of_machine(environment: Mapping[str, str]) -> tuple[str, ...]:
    """List the identities of all GPUs in the driver's order, or their numbers if only the count is known."""
    if count := environment.get(COUNT, ""):
        if not count.isdigit():
            raise ConfigError(f"the variable {COUNT} is {count!r}, not a number of GPUs", f"set e.g. {COUNT}=2")
        return tuple(map(str, range(int(count))))
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "-L"]
        listing = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False)
        return parse_listing(listing.stdout)
    texts = (path.read_text() for path in sorted(_DRIVER.glob("*/information")))
    return tuple(match.group(1) for text in texts if (match := _LISTED.search(text)))


def parse_listing(listing: str) -> tuple[str, ...]:
    """Return the identities in the output of `nvidia-smi -L`; a GPU in MIG mode is replaced by its parts."""
    devices: list[str] = []
    whole = ""
    for line in listing.splitlines():
        if match := _LISTED.search(line):
            is_part = match.group(1).startswith("MIG-")
            if is_part and devices and devices[-1] == whole:
                devices.pop()
            whole = whole if is_part else match.group(1)
            devices.append(match.group(1))
    return tuple(devices)


def try_claim(usable: Sequence[str], wanted: int, run: str) -> DeviceClaim | Busy:
    """Lock `wanted` of the devices for `run`, or return the runs that hold them.

    Raises:
        MixcptError: If the lock files cannot be written.
    """
    folder = Path(os.environ.get(LOCKS, _DEFAULT_LOCKS))
    try:
        with _exclusive(folder):
            return _choose(folder, usable, wanted, run)
    except OSError as error:
        raise MixcptError(
            f"cannot write the locks of the GPUs in {folder}: {error.strerror}",
            f"set {LOCKS} to a folder that every user who trains on this machine can write to",
        ) from error


def _choose(folder: Path, usable: Sequence[str], wanted: int, run: str) -> DeviceClaim | Busy:
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
    claim = DeviceClaim(tuple(free), tuple(free.values()))
    if len(free) < wanted:
        claim.release()
        return Busy(wanted, len(usable), tuple(holders))
    for descriptor in claim.descriptors:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(vars(Holder(run, time.time()))).encode(), 0)
    return claim


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Let one process at a time choose devices: two that want the same pair would lock one each and both give up."""
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
    """Open a file that every user can lock, and return its descriptor.

    An existing file is opened without O_CREAT: with it, Linux refuses files of other users in a shared folder.
    """
    existing = os.O_RDWR | os.O_NOFOLLOW
    with suppress(FileNotFoundError):
        return os.open(path, existing)
    try:
        descriptor = os.open(path, existing | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:  # another process has created it meanwhile
        return os.open(path, existing)
    os.fchmod(descriptor, 0o666)
    return descriptor


def _read_note(descriptor: int) -> Holder:
    try:
        return Holder(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):  # locked by a program that writes no notes
        return Holder("another program", os.fstat(descriptor).st_mtime)
