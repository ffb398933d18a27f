"""The Triton kernels on a CPU, under Triton's interpreter, and the conditions of their use."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mixcpt.distill.chunk import kernels_for

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_interpreted_kernels_equal_the_torch_operations() -> None:
    """Run in a separate process, because the interpreter must be enabled before triton is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/gpu/test_triton_chunks.py", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout


def test_kernels_are_not_chosen_where_they_cannot_run() -> None:
    assert kernels_for(torch.device("cpu"), torch.float32) is None
    assert kernels_for(torch.device("cuda"), torch.float64) is None
