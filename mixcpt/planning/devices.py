"""What is known of devices: makers' figures by name, and this machine by a look and a short benchmark."""

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from mixcpt.config import RuntimeConfig
from mixcpt.errors import ConfigError
from mixcpt.records.plan import Device

if TYPE_CHECKING:
    import torch

_GIB = 2**30
HERE = "this machine"
GPU_UTILISATION = 0.4
"""Of the peak: what training of dense models reaches on one GPU, micro-batches of some thousand tokens given."""
CPU_UTILISATION = 0.4
"""Of a large matrix product's speed, as measured with models of a few million parameters."""
_BENCH_SIZE = 512
_BENCH_SECONDS = 0.3


@dataclass(frozen=True)
class _Model:
    """A maker's figures: dense peaks, without sparsity."""

    memory_gib: float
    bf16_tflops: float
    fp32_tflops: float
    """Without tensor cores, but for TF32 where the library uses it by itself: it does not."""
    gb_per_second: float


DEVICES = {
    "t4": _Model(15.0, 65.0, 8.1, 300.0),
    "rtx4090": _Model(24.0, 165.0, 82.6, 1008.0),
    "l40s": _Model(45.0, 362.0, 91.6, 864.0),
    "a100-40": _Model(40.0, 312.0, 19.5, 1555.0),
    "a100-80": _Model(80.0, 312.0, 19.5, 2039.0),
    "h100": _Model(80.0, 989.0, 66.9, 3350.0),
    "h200": _Model(141.0, 989.0, 66.9, 4800.0),
}
"""By the name that `--device` takes. T4 and older have fp16 in place of bf16."""


def named_device(name: str, runtime: RuntimeConfig, precision: str) -> Device:
    """Returns a device of the table, as often as the run has processes.

    Raises:
        ConfigError: If there is none of that name.
    """
    model = DEVICES.get(name.lower().replace("_", "-").replace(" ", ""))
    if model is None:
        raise ConfigError(f"--device {name!r} is not known", f"one of: cpu, {', '.join(DEVICES)}")
    peak = model.bf16_tflops if precision == "bf16" else model.fp32_tflops
    return Device(
        name.lower(),
        runtime.num_processes,
        round(model.memory_gib * _GIB),
        peak * 1e12,
        model.fp32_tflops * 1e12,
        model.gb_per_second * 1e9,
        GPU_UTILISATION,
        is_here=False,
    )


def this_machine(runtime: RuntimeConfig, precision: str, *, kind: Literal["any", "cpu"] = "any") -> Device:
    """Returns what a run would train on here: its GPU, else its CPU, whose speed is measured in about half a second."""
    import torch

    if kind == "any" and torch.cuda.is_available():
        return _gpu(runtime, precision)
    threads = runtime.num_threads or torch.get_num_threads()
    fp32 = _matrix_flops(torch.float32, threads)
    return Device(
        "cpu",
        runtime.num_processes,
        ram_bytes() // runtime.num_processes,
        _matrix_flops(torch.bfloat16, threads) if precision == "bf16" else fp32,
        fp32,
        _copy_speed(),
        CPU_UTILISATION,
        is_here=True,
    )


def ram_bytes() -> int:
    """Returns the memory of this machine that a process may have, in bytes: less where a container limits it."""
    limit = Path("/sys/fs/cgroup/memory.max")
    total = psutil.virtual_memory().total
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        return min(total, int(text))
    return total


def free_disk_bytes(folder: Path) -> int:
    """Returns what is left on the disk on which a folder lies, or will lie once it is made."""
    folder = folder.expanduser().resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _gpu(runtime: RuntimeConfig, precision: str) -> Device:
    import torch

    properties = torch.cuda.get_device_properties(0)
    found = properties.name.lower().replace(" ", "")
    known = next((model for name, model in DEVICES.items() if name.partition("-")[0] in found), None)
    fp32 = _matrix_flops(torch.float32, 0, device="cuda", size=4096)
    peak = _matrix_flops(torch.bfloat16, 0, device="cuda", size=4096) if precision == "bf16" else fp32
    bandwidth = known.gb_per_second * 1e9 if known else 1e12
    memory = properties.total_memory
    return Device(properties.name, runtime.num_processes, memory, peak, fp32, bandwidth, GPU_UTILISATION, True)


def _matrix_flops(dtype: "torch.dtype", threads: int, *, device: str = "cpu", size: int = _BENCH_SIZE) -> float:
    """Returns the operations a second of the fastest of many square matrix products: others may use the machine."""
    import torch

    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        left = torch.ones(size, size, dtype=dtype, device=device)
        right, result = left.clone(), left.clone()
        torch.mm(left, right, out=result)
        fastest, ends = math.inf, time.perf_counter() + _BENCH_SECONDS
        while time.perf_counter() < ends or fastest == math.inf:
            started = time.perf_counter()
            torch.mm(left, right, out=result)
            if device == "cuda":
                torch.cuda.synchronize()
            fastest = min(fastest, time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return 2 * size**3 / fastest


def _copy_speed() -> float:
    """Returns the bytes a second that the CPU's memory gives, read and written."""
    import torch

    source = torch.ones(8 * 2**20)
    target = torch.empty_like(source)
    target.copy_(source)
    started = time.perf_counter()
    target.copy_(source)
    return 2 * source.nbytes / (time.perf_counter() - started)
