"""Shared by the benchmarks: one process per implementation, alternating rounds, medians, a table, a RESULT line."""

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
    """Time and memory of one call."""

    seconds: float
    """Seconds of the second call; the first call warms up."""
    added_bytes: int
    """Peak memory of the first call, minus the memory in use before it, in bytes."""


def measure(work: Callable[[], object], device: str) -> Cost:
    """Call `work` twice and return its cost; its inputs must already exist."""
    before = _reset_peak(device)
    work()
    added = _peak(device) - before
    started = time.perf_counter()
    work()
    _wait(device)
    return Cost(time.perf_counter() - started, added)


def in_own_process(script: str, arguments: Sequence[str], *, extra_path: str = "") -> dict[str, Any]:
    """Run `python script arguments` and return the JSON object in the last line of its output."""
    path = os.pathsep.join(filter(None, [extra_path, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def report_cost(cost: Cost, **more: float) -> None:
    """Print the result of a process started by `in_own_process`."""
    print(json.dumps({**asdict(cost), **more}))


def in_turn(rounds: int, runs: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Run everything in alternating rounds, and return the median of every figure of every run.

    Alternating spreads a slow minute of the machine over all runs.
    """
    return {name: medians(results) for name, results in every_round(rounds, runs).items()}


def every_round(rounds: int, runs: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Run everything in alternating rounds, and return the results by run and round."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            results[name].append(run())
    return results


def medians(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the medians of all figures."""
    return {key: median(result[key] for result in results) for key in results[0]}


def publish(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], result: dict[str, Any], *, rounds: int
) -> None:
    """Print the table and the RESULT line, and write both with device and date to benchmarks/results/."""
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
    """Return the name of the GPU, or of the processor with its number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = models[0].partition(":")[2].strip() if models else platform.machine()
    return f"{processor}, {os.cpu_count()} cores"


def gibibytes(number: float) -> str:
    return f"{number / 1024 / _MEBIBYTE:.2f} GiB"


def _reset_peak(device: str) -> int:
    """Reset the peak memory, and return the bytes in use."""
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
