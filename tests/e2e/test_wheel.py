"""An installed wheel, without a checkout: the names that it leaves alone, and the demo, shortened."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SHORTER = (
    "mixture.total_tokens=20000",
    "align.sft.epochs=1",
    "align.dpo.epochs=1",
    "align.selection.num_instructions=8",
    "align.selection.num_preferences=8",
    "align.selection.num_candidates=20",
    "evaluate.num_resamples=50",
)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a clean environment with the wheel, and with this environment's libraries instead of copies.

    A `.pth` file adds the folder of the libraries, whose own `.pth` files are not read: the checkout is not visible.
    """
    folder = tmp_path_factory.mktemp("environment")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return python


def run(python: Path, program: str, *arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PREFECT_API_URL")}
    command = [str(python.with_name(program)), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_installed_wheel_leaves_common_names_alone(python: Path, tmp_path: Path) -> None:
    code = "import importlib.util as u, mixcpt; print(mixcpt.__file__, [u.find_spec(n) for n in ('flows', 'tasks')])"
    done = run(python, "python", "-c", code, folder=tmp_path)
    file, specs = done.stdout.strip().split(" ", 1)
    assert Path(file).is_relative_to(python.parents[1]), done.stderr
    assert specs == "[None, None]"


def test_installed_wheel_runs_the_demo_without_a_checkout(python: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()  # a folder of the user's with a name that ours has as well
    (tmp_path / "tasks" / "__init__.py").write_text("raise RuntimeError('not mine')")
    settings = [argument for setting in SHORTER for argument in ("--set", setting)]
    done = run(python, "mixcpt", "demo", "--store", str(tmp_path / "store"), *settings, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    assert set(result) == {"base", "traditional", "mixcpt", "seconds"}
    assert result["base"]["general"] == 1.0
    assert (tmp_path / "store" / "report.html").is_file()
