"""A push to a hub over real HTTP: private unless asked otherwise, every byte, and the token nowhere to be seen."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixcpt.models import ModelRef
from mixcpt.stack import free_port
from tests.integration.hub_server import TOKEN, Hub, running_hub

REPOSITORY = "my-team/my-model"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        yield running


def export(
    model: ModelRef, folder: Path, address: str, *flags: str, token: str = TOKEN
) -> subprocess.CompletedProcess[str]:
    """`mixcpt export --push-to` in a process of its own: the hub's address is read when its library is imported."""
    command = ("export", model.path, folder, "--push-to", REPOSITORY, "--store", folder.parent / "store", *flags)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(folder.parent / "hf"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_TOKEN": token} if token else {}
    done = subprocess.run(
        [sys.executable, "-m", "mixcpt", *map(str, command)],
        capture_output=True,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert TOKEN not in done.stdout + done.stderr
    return done


def test_pushed_repository_is_private_and_holds_the_folder(hub: Hub, tiny_model: ModelRef, tmp_path: Path) -> None:
    done = export(tiny_model, tmp_path / "out", hub.address)
    assert done.returncode == 0, done.stderr
    assert hub.repositories == {REPOSITORY: True}
    written = {f"{REPOSITORY}/{path.name}": path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert hub.files == written and f"{REPOSITORY}/model.safetensors" in written
    assert not any(TOKEN.encode() in content for content in written.values())
    assert done.stdout.splitlines()[-1] == f"{hub.address}/{REPOSITORY}/commit/{'0' * 40}"


def test_public_repository_gets_nothing_unless_that_was_asked_for(
    hub: Hub, tiny_model: ModelRef, tmp_path: Path
) -> None:
    hub.repositories[REPOSITORY] = False
    refused = export(tiny_model, tmp_path / "out", hub.address)
    assert refused.returncode == 2
    assert f"{REPOSITORY} is there already, and public" in refused.stderr and "--public" in refused.stderr
    assert hub.files == {}
    done = export(tiny_model, tmp_path / "other", hub.address, "--public")
    assert done.returncode == 0, done.stderr
    assert f"{REPOSITORY}/README.md" in hub.files


def test_push_that_cannot_succeed_ends_before_anything_is_written(
    hub: Hub, tiny_model: ModelRef, tmp_path: Path
) -> None:
    no_token = export(tiny_model, tmp_path / "out", hub.address, token="")
    assert no_token.returncode == 2
    assert "there is no token for the hub" in no_token.stderr and "HF_TOKEN" in no_token.stderr
    wrong_token = export(tiny_model, tmp_path / "out", hub.address, token="hf_wrong")
    assert wrong_token.returncode == 2
    assert "the hub does not know the token" in wrong_token.stderr and "hf_wrong" not in wrong_token.stderr
    away = export(tiny_model, tmp_path / "out", f"http://127.0.0.1:{free_port()}")
    assert away.returncode == 2
    assert "cannot be reached" in away.stderr
    assert not (tmp_path / "out").exists() and hub.repositories == {}
