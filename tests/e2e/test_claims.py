"""Claims of the README at full length; run them with `make test-long`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixcpt.bases.build_base import read_recipe
from mixcpt.store.models import CLOSED_WORLD_PATH

ROOT = Path(__file__).parents[2]


def mixcpt(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "mixcpt", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=dict(os.environ)).stdout


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_demo_keeps_prior_knowledge_but_the_traditional_chain_forgets(tmp_path: Path) -> None:
    last = mixcpt("demo", "--store", tmp_path / "store").strip().splitlines()[-1]
    result = json.loads(last.removeprefix("RESULT "))
    assert result["mixcpt"]["domain"] >= 0.85
    assert result["mixcpt"]["general"] >= 0.9
    assert min(result["traditional"].values()) <= 0.75


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_rebuilt_base_scores_like_the_shipped_one(tmp_path: Path) -> None:
    mixcpt("world", "build-base", tmp_path / "base")
    shipped, rebuilt = read_recipe(CLOSED_WORLD_PATH)["scores"], read_recipe(tmp_path / "base")["scores"]
    for name, value in shipped["accuracy"].items():
        assert abs(rebuilt["accuracy"][name] - value) <= 0.03, name
