"""A dry run of a small run: every stage is measured in processes of their own, and no files stay."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixcpt.config import AdaptConfig, load_config
from mixcpt.planning import stage
from mixcpt.planning.devices import this_machine
from mixcpt.planning.load import count_load
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import resolve_model

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "deployments" / "configs" / "demo-mixcpt.yaml"
pytestmark = pytest.mark.e2e


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder for the temporary files of this test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def small(store: Path) -> AdaptConfig:
    """The demo with two of its tasks."""
    tasks = "[{kind: closed_world, name: asked, limit: 8}, {kind: closed_world, name: kept, group: general, about: general_unasked, limit: 8}]"  # noqa: E501
    evaluate = f"evaluate={{tasks: {tasks}, headline_domain: asked, headline_general: kept}}"
    changes = [evaluate, "mixture.total_tokens=100000", f"runtime.store={store}", "runtime.num_threads=1"]
    return load_config(DEMO, changes)


@pytest.mark.long
def test_dry_run_measures_every_stage_and_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    config = small(tmp_path / "store")
    load = count_load(config, resolve_model(config.base), ArtifactStore(config.runtime.store))
    seen: list[str] = []
    device = this_machine(config.runtime, config.pretrain.precision, kind="cpu")
    plan = stage.measured_plan(load, device, on_stage=seen.append)
    assert {"curate", "mix", "pretrain", "select", "sft", "dpo", "evaluate-base"} <= set(seen)
    assert plan.basis == "dry run"
    assert plan.by_stage["pretrained"].tokens == 391 * 256
    assert plan.by_stage["pretrained"].steps == 49
    for name in ("pretrained", "sft", "dpo"):
        assert 2**28 < plan.by_stage[name].peak_memory_bytes < 2**31
        assert plan.by_stage[name].seconds > 0.1
    assert [memory.total for memory in plan.memory] == [
        plan.by_stage[name].peak_memory_bytes for name in ("pretrained", "sft", "dpo")
    ]
    assert plan.start_seconds > 1
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "store").exists()


def test_dry_run_stopped_leaves_no_file_and_no_process(
    tmp_path: Path, temporary: Path, wait_until: Callable[..., Any]
) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(f"runtime: {{store: {tmp_path / 'store'}}}\n")
    command = [sys.executable, "-m", "mixcpt", "plan", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_until(lambda: any(temporary.glob("mixcpt-plan-*/store/work/batches/*/events.jsonl")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert not list(temporary.glob("mixcpt-plan-*"))
    mine = subprocess.run(["pgrep", "-f", str(temporary)], capture_output=True, text=True)
    assert mine.stdout == ""
