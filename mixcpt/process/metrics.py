"""What a process tree uses: processors, memory, GPUs; under the names that MLflow shows as system metrics."""

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
"""What nvidia-smi is asked, and what MLflow calls it."""
_PATIENCE_SECONDS = 5.0
_MEBIBYTE = 2**20 / 1e6


class Vitals:
    """Samples of the tree below one process, and of its GPUs."""

    def __init__(self, process_id: int, devices: Sequence[str] = ()) -> None:
        self.process_id = process_id
        self.devices = tuple(devices)
        psutil.cpu_percent()  # what it says next counts from here
        self.cpu_seconds, _ = _use_of_tree(process_id)
        self.taken_at = time.monotonic()

    def sample(self) -> dict[str, float]:
        """Returns what is used now, processors since the last sample; a process counts 100 for each core it fills."""
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
    """Returns CPU seconds and resident bytes of a process and all below it; the dead count with who has reaped them."""
    seconds, resident = 0.0, 0
    for process in _tree(process_id):
        try:
            times = process.cpu_times()
            resident += process.memory_info().rss
        except psutil.Error:  # ended meanwhile, or another user's
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
    """Returns use, memory and power of the devices by the driver's numbers; nothing where the driver does not tell."""
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
    """Yields name and value of each figure in nvidia-smi's lines; `[N/A]` is left out."""
    for line in answer.splitlines():
        index, *texts = (text.strip() for text in line.split(","))
        values = {field: float(text) for field, text in zip(_GPU_FIELDS, texts, strict=False) if _is_number(text)}
        total = values.pop("memory.total", 0.0)
        if total and "memory.used" in values:
            yield f"gpu_{index}_memory_usage_percentage", 100 * values["memory.used"] / total
        if "memory.used" in values:
            values["memory.used"] *= _MEBIBYTE
        for field, value in values.items():
            yield f"gpu_{index}_{_GPU_FIELDS[field]}", value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
