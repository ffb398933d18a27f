"""The project itself: the map, the wheel, the pins, the presets, the cost of imports, the hooks of flows."""

import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from prefect import Flow

from mixcpt.config import load_config
from tasks.hooks import label_process

ROOT = Path(__file__).parents[3]
PRESETS = sorted((ROOT / "deployments" / "configs").glob("*.yaml"))


def tracked_folders() -> set[str]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    tops = {line.split("/")[0] for line in listing.stdout.splitlines() if "/" in line}
    return {name for name in tops if not name.startswith(".")}


def test_architecture_maps_every_top_level_folder() -> None:
    mapped = re.findall(r"^\| `([a-z]+)/` \|", (ROOT / "ARCHITECTURE.md").read_text(), flags=re.MULTILINE)
    assert tracked_folders() <= set(mapped)
    assert [name for name in mapped if not (ROOT / name).is_dir()] == []


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_preset_is_valid_and_says_what_it_needs(preset: Path) -> None:
    load_config(preset)
    comment = "\n".join(line for line in preset.read_text().splitlines() if line.startswith("#"))
    assert "Expect:" in comment


def test_constraints_pin_every_dependency_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["dev"]]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower(): line.split("==")[1] for line in lines}
    for requirement in wanted:
        pin = pins[re.sub(r"[-_.]+", "-", requirement.name).lower()]
        assert requirement.specifier.contains(pin), f"{requirement} does not admit {pin}"


def test_wheel_adds_one_top_level_package_with_all_that_the_main_job_needs(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"mixcpt"}
    for needed in (
        "mixcpt/closed_world/base/model.safetensors",
        "mixcpt/align/templates/plain.jinja",
        "mixcpt/_project/flows/adapt.py",
        "mixcpt/_project/deployments/configs/demo-mixcpt.yaml",
    ):
        assert needed in names
    assert any(name.startswith("mixcpt/report/templates/") for name in names)


@pytest.mark.parametrize(
    "module",
    [
        "mixcpt.config",
        "mixcpt.cli",
        "flows.adapt",
        "flows.compare",
        "flows.reconcile",
        "flows.demo",
        "deployments.automations",
    ],
)
def test_import_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_every_flow_says_which_process_it_is() -> None:
    modules = [importlib.import_module(f"flows.{path.stem}") for path in (ROOT / "flows").glob("[a-z]*.py")]
    named = chain.from_iterable(vars(module).items() for module in modules)
    flows = {name: value for name, value in named if isinstance(value, Flow)}
    assert {"adapt", "demo", "reconcile"} <= set(flows)
    silent = {name for name, thing in flows.items() if label_process not in thing.on_running_hooks}
    assert silent == set(), "`mixcpt reconcile` could not see their death: on_running=[label_process]"
