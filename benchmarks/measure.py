"""What the benchmarks share: each implementation in a process of its own, in turn; medians; a table; a RESULT line."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Cost:
    seconds: float
    """Of a second call; the first one warms up."""
    added_bytes: int
    """Peak of the first call above what was there before it."""


def measure(work: Callable[[], object], device: str) -> Cost:
    """Returns what one call of `work` costs; its inputs must exist already."""
    before = _reset_peak(device)
    work()
    added = _peak(device) - before
    started = time.perf_counter()
    work()
    _wait(device)
    return Cost(time.perf_counter() - started, added)


def in_own_process(script: str, arguments: Sequence[str], *, extra_path: str = "") -> dict[str, Any]:
    """Returns the JSON object that `python script arguments` prints as its last line."""
    path = os.pathsep.join(filter(None, [extra_path, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def report_cost(cost: Cost, **more: float) -> None:
    """Prints what a process of `in_own_process` found."""
    print(json.dumps({**asdict(cost), **more}))


def in_turn(rounds: int, runs: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Returns the median of every figure of every run; the runs alternate, so that a slow minute hits all alike."""
    return {name: medians(several) for name, several in every_round(rounds, runs).items()}


def every_round(rounds: int, runs: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Returns what every run found in each round; the runs alternate."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            found[name].append(run())
    return found


def medians(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the median of each figure."""
    return {key: median(one[key] for one in several) for key in several[0]}


def publish(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], result: dict[str, Any], *, rounds: int
) -> None:
    """Prints table and RESULT line, and writes both with device and date to `benchmarks/results/`."""
    table = Table(*columns, title=f"{name}, {device_name()}, {date.today().isoformat()}")
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)
    record = {
        "benchmark": name,
        "date": date.today().isoformat(),
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "torch": torch.__version__,
        "columns": list(columns),
        "rows": [list(row) for row in rows],
        "result": result,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print("RESULT " + json.dumps(result))


def device_name() -> str:
    """Returns the accelerator, or the processor with its number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = models[0].partition(":")[2].strip() if models else platform.machine()
    return f"{processor}, {os.cpu_count()} cores"


def gibibytes(number: float) -> str:
    return f"{number / 1024 / _MEBIBYTE:.2f} GiB"


def _reset_peak(device: str) -> int:
    """Returns the bytes in use, from which the next peak is counted."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the highest resident size so far
    return _status("VmRSS")


def _peak(device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
