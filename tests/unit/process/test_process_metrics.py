"""Resources of a real process tree, and the output of nvidia-smi."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mixcpt.process.metrics import ProcessMetrics, parse_gpus
from mixcpt.store.spool import Measurement
from tasks.watching import progress_figures

BUSY = """
import subprocess, sys
code = "held = bytearray(60_000_000)\\nprint('on', flush=True)\\nwhile True: pass"
subprocess.run([sys.executable, "-c", code])
"""


def test_sample_counts_processors_and_memory_of_grandchildren() -> None:
    parent = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert parent.stdout is not None
        parent.stdout.readline()
        process_metrics = ProcessMetrics(parent.pid)
        deadline = time.monotonic() + 30
        while process_metrics.sample()["system/process_cpu_percentage"] < 5:  # 100 on an idle machine
            assert time.monotonic() < deadline
            time.sleep(0.1)
        sample = process_metrics.sample()
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
    assert 60 < sample["system/process_memory_megabytes"] < 500
    assert set(sample) >= {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"}


def test_sample_of_a_tree_that_has_ended_is_zero() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    sample = ProcessMetrics(ended.pid).sample()
    assert sample["system/process_cpu_percentage"] == sample["system/process_memory_megabytes"] == 0


def test_gpu_figures_have_mlflow_names_and_skip_unknown_values() -> None:
    answer = "0, 97, 40960, 81920, 512.50\n3, [N/A], 1000, 2000, [N/A]\n"
    assert dict(parse_gpus(answer)) == pytest.approx(
        {
            "gpu_0_utilization_percentage": 97.0,
            "gpu_0_memory_usage_percentage": 50.0,
            "gpu_0_memory_usage_megabytes": 42949.67296,
            "gpu_0_power_usage_watts": 512.5,
            "gpu_3_memory_usage_percentage": 50.0,
            "gpu_3_memory_usage_megabytes": 1048.576,
        }
    )


def test_progress_figures_are_percent_and_whole_seconds_where_known() -> None:
    last = Measurement(30, {}, 0.0, 120)
    assert progress_figures(last, 41.6) == {"progress/percent": 25.0, "progress/eta_seconds": 42}
    assert progress_figures(last, None) == {"progress/percent": 25.0}
