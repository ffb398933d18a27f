"""Figures of devices: data sheets by name, and a short benchmark of this machine."""

import math
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from mixcpt.config import RuntimeConfig
from mixcpt.errors import ConfigError
from mixcpt.records.plan import Device

if TYPE_CHECKING:
    import torch

_GIB = 2**30
GPU_UTILISATION = 0.4
"""Typical fraction of the peak speed when a dense model trains on one GPU with micro-batches of some 1000 tokens."""
CPU_UTILISATION = 0.4
"""Fraction of the speed of a large matrix product, measured with models of a few million parameters."""
_BENCH_SIZE = 512
_BENCH_SECONDS = 0.3


@dataclass(frozen=True)
class _DataSheet:
    """Figures of the manufacturer: dense peak speeds, without sparsity."""

    memory_gib: float
    """Memory in GiB."""
    bf16_tflops: float
    """Peak speed in bf16, in 1e12 operations per second; fp16 for the T4, which has no bf16."""
    fp32_tflops: float
    """Peak speed in fp32 without tensor cores, in 1e12 operations per second; torch does not use TF32 by default."""
    gb_per_second: float
    """Memory bandwidth in 1e9 bytes per second."""


DEVICES = {
    "t4": _DataSheet(15.0, 65.0, 8.1, gb_per_second=300.0),
    "rtx4090": _DataSheet(24.0, 165.0, 82.6, gb_per_second=1008.0),
    "l40s": _DataSheet(45.0, 362.0, 91.6, gb_per_second=864.0),
    "a100-40": _DataSheet(40.0, 312.0, 19.5, gb_per_second=1555.0),
    "a100-80": _DataSheet(80.0, 312.0, 19.5, gb_per_second=2039.0),
    "h100": _DataSheet(80.0, 989.0, 66.9, gb_per_second=3350.0),
    "h200": _DataSheet(141.0, 989.0, 66.9, gb_per_second=4800.0),
}
"""Data sheets by the name that `--device` accepts."""


def named_device(name: str, runtime: RuntimeConfig, precision: str) -> Device:
    """Return a device of the table; its count is the number of processes of the run.

    Raises:
        ConfigError: If the table has no device with this name.
    """
    sheet = _data_sheet(name)
    peak_tflops = sheet.bf16_tflops if precision == "bf16" else sheet.fp32_tflops
    return Device(
        name=name.lower(),
        count=runtime.num_processes,
        memory_bytes=named_device_memory(name),
        peak_flops=peak_tflops * 1e12,
        fp32_flops=sheet.fp32_tflops * 1e12,
        bytes_per_second=sheet.gb_per_second * 1e9,
        utilisation=GPU_UTILISATION,
        is_here=False,
    )


def named_device_memory(name: str) -> int:
    """Return the memory of a device of the table in bytes.

    Raises:
        ConfigError: If the table has no device with this name.
    """
    return round(_data_sheet(name).memory_gib * _GIB)


def this_machine(runtime: RuntimeConfig, precision: str, *, kind: Literal["any", "cpu"] = "any") -> Device:
    """Benchmark the device that a run uses on this machine, for half a second, and return it: a GPU, else the CPU."""
    import torch

    if kind == "any" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        name, memory_bytes, utilisation = properties.name, properties.total_memory, GPU_UTILISATION
        full_name = name.lower().replace(" ", "")
        sheet = next((sheet for key, sheet in DEVICES.items() if key.partition("-")[0] in full_name), None)
        bytes_per_second = sheet.gb_per_second * 1e9 if sheet else 1e12
        measure_flops = partial(_matrix_flops, threads=0, device="cuda", size=4096)
    else:
        name, memory_bytes, utilisation = "cpu", ram_bytes() // runtime.num_processes, CPU_UTILISATION
        bytes_per_second = _copy_speed()
        measure_flops = partial(_matrix_flops, threads=runtime.num_threads or torch.get_num_threads())
    fp32_flops = measure_flops(torch.float32)
    return Device(
        name=name,
        count=runtime.num_processes,
        memory_bytes=memory_bytes,
        peak_flops=measure_flops(torch.bfloat16) if precision == "bf16" else fp32_flops,
        fp32_flops=fp32_flops,
        bytes_per_second=bytes_per_second,
        utilisation=utilisation,
        is_here=True,
    )


def ram_bytes() -> int:
    """Return the memory of this machine, or the limit of its container, in bytes."""
    limit = Path("/sys/fs/cgroup/memory.max")
    total = psutil.virtual_memory().total
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        return min(total, int(text))
    return total


def free_disk_bytes(folder: Path) -> int:
    """Return the free space on the disk of a folder, which need not exist yet."""
    folder = folder.expanduser().resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _data_sheet(name: str) -> _DataSheet:
    sheet = DEVICES.get(name.lower().replace("_", "-").replace(" ", ""))
    if sheet is None:
        raise ConfigError(f"--device {name!r} is unknown", f"use one of: cpu, {', '.join(DEVICES)}")
    return sheet


def _matrix_flops(dtype: "torch.dtype", *, threads: int, device: str = "cpu", size: int = _BENCH_SIZE) -> float:
    """Measure square matrix products and return the operations per second of the fastest; others may slow it down."""
    import torch

    threads_before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        left = torch.ones(size, size, dtype=dtype, device=device)
        right, result = left.clone(), left.clone()
        torch.mm(left, right, out=result)
        fastest, end = math.inf, time.perf_counter() + _BENCH_SECONDS
        while time.perf_counter() < end or fastest == math.inf:
            started = time.perf_counter()
            torch.mm(left, right, out=result)
            if device == "cuda":
                torch.cuda.synchronize()
            fastest = min(fastest, time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads_before)
    return 2 * size**3 / fastest


def _copy_speed() -> float:
    """Measure a copy in CPU memory and return the bytes read and written per second."""
    import torch

    source = torch.ones(8 * 2**20)
    target = torch.empty_like(source)
    target.copy_(source)
    started = time.perf_counter()
    target.copy_(source)
    return 2 * source.nbytes / (time.perf_counter() - started)
