"""CPU, memory and GPU use of a process tree, under MLflow's names for system metrics."""

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence

import psutil

PREFIX = "system/"
_GPU_FIELDS = {
    "utilization.gpu": "utilization_percentage",
    "memory.used": "memory_usage_megabytes",
    "memory.total": "",
    "power.draw": "power_usage_watts",
}
"""Fields of nvidia-smi with their names in MLflow; a field with an empty name is used only for a percentage."""
_PATIENCE_SECONDS = 5.0
_MEBIBYTE = 2**20 / 1e6


class ProcessMetrics:
    """Samples the resources of a process, all processes below it, and its GPUs."""

    def __init__(self, process_id: int, devices: Sequence[str] = ()) -> None:
        self.process_id = process_id
        self.devices = tuple(devices)
        psutil.cpu_percent()  # the next call measures from here
        self.cpu_seconds, _ = _use_of_tree(process_id)
        self.taken_at = time.monotonic()

    def sample(self) -> dict[str, float]:
        """Measure the present use, and the CPU use since the last sample; one fully used core counts as 100 percent."""
        cpu_seconds, resident_bytes = _use_of_tree(self.process_id)
        now = time.monotonic()
        spent, passed = cpu_seconds - self.cpu_seconds, max(now - self.taken_at, 1e-9)
        self.cpu_seconds, self.taken_at = cpu_seconds, now
        memory = psutil.virtual_memory()
        figures = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
            "process_cpu_percentage": 100 * max(spent, 0.0) / passed,
            "process_memory_megabytes": resident_bytes / 1e6,
            **_gpu_figures(self.devices),
        }
        return {f"{PREFIX}{name}": round(value, 1) for name, value in figures.items()}


def _use_of_tree(process_id: int) -> tuple[float, int]:
    """Return the CPU seconds and resident bytes of a process tree; a reaped process counts for its parent."""
    seconds, resident = 0.0, 0
    for process in _tree(process_id):
        try:
            times = process.cpu_times()
            resident += process.memory_info().rss
        except psutil.Error:  # the process has ended, or belongs to another user
            continue
        seconds += times.user + times.system
        seconds += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return seconds, resident


def _tree(process_id: int) -> list[psutil.Process]:
    try:
        top = psutil.Process(process_id)
        return [top, *top.children(recursive=True)]
    except psutil.Error:
        return []


def _gpu_figures(devices: Sequence[str]) -> dict[str, float]:
    """Query use, memory and power of the devices; empty if nvidia-smi is missing, fails or takes too long."""
    if not devices or not shutil.which("nvidia-smi"):
        return {}
    query = f"--query-gpu=index,{','.join(_GPU_FIELDS)}"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits", "-i", ",".join(devices)]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {}
    return dict(parse_gpus(answer.stdout)) if answer.returncode == 0 else {}


def parse_gpus(answer: str) -> Iterator[tuple[str, float]]:
    """Yield the names and values in the output of nvidia-smi, without `[N/A]`."""
    for line in answer.splitlines():
        index, *texts = (text.strip() for text in line.split(","))
        fields = zip(_GPU_FIELDS, texts, strict=False)
        values = {field: float(text) for field, text in fields if text.replace(".", "", 1).isdigit()}
        total = values.pop("memory.total", 0.0)
        if total and "memory.used" in values:
            yield f"gpu_{index}_memory_usage_percentage", 100 * values["memory.used"] / total
        if "memory.used" in values:
            values["memory.used"] *= _MEBIBYTE
        for field, value in values.items():
            yield f"gpu_{index}_{_GPU_FIELDS[field]}", value
