"""A push to a hub over real HTTP: private by default, every byte arrives, and no output contains the token."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from mixcpt.errors import ConfigError, MixcptError
from mixcpt.servers.stack import free_port
from mixcpt.serving.push import HubError, push, require_login
from mixcpt.store.models import ModelRef
from tests.integration.hub_server import TOKEN, Hub, running_hub

REPOSITORY = "my-team/my-model"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        yield running


@pytest.fixture(autouse=True)
def only_the_test_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("---\ntags: [mixcpt]\n---\n# A model\n")
    (tmp_path / "out" / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return tmp_path / "out"


def refusal(error: type[MixcptError], hub: Hub, folder: Path) -> str:
    with pytest.raises(error) as refused:
        push(folder, REPOSITORY, is_public=False, endpoint=hub.address)
    return str(refused.value)


def test_command_pushes_the_whole_folder_to_a_private_repository(
    hub: Hub, tiny_model: ModelRef, tmp_path: Path
) -> None:
    command = ("export", tiny_model.path, tmp_path / "out", "--push-to", REPOSITORY, "--store", tmp_path / "store")
    environment = {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "mixcpt", *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert hub.repositories == {REPOSITORY: True}
    written = {f"{REPOSITORY}/{path.name}": path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert hub.files == written and f"{REPOSITORY}/model.safetensors" in written
    assert not any(TOKEN.encode() in content for content in written.values())
    assert done.stdout.splitlines()[-1] == f"{hub.address}/{REPOSITORY}/commit/{'0' * 40}"


def test_push_to_a_public_repository_needs_the_option(hub: Hub, folder: Path) -> None:
    hub.repositories[REPOSITORY] = False
    message = refusal(ConfigError, hub, folder)
    assert f"{REPOSITORY} exists and is public" in message and "--public" in message
    assert hub.files == {}
    push(folder, REPOSITORY, is_public=True, endpoint=hub.address)
    assert set(hub.files) == {f"{REPOSITORY}/README.md", f"{REPOSITORY}/model.safetensors"}


def test_push_with_public_creates_a_public_repository(hub: Hub, folder: Path) -> None:
    push(folder, REPOSITORY, is_public=True, endpoint=hub.address)
    assert hub.repositories == {REPOSITORY: False}


def test_login_problems_are_reported_before_any_work(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert require_login(REPOSITORY, endpoint=hub.address) == "my-team"
    with pytest.raises(ConfigError, match="is not OWNER/NAME"):
        require_login("only-a-name", endpoint=hub.address)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match=r"the hub refused the token: .*\(401\)") as refused:
        require_login(REPOSITORY, endpoint=hub.address)
    assert "hf_wrong" not in str(refused.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="there is no token for the hub"):
        require_login(REPOSITORY, endpoint=hub.address)


def test_unreachable_hub_is_reported(folder: Path) -> None:
    unused = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(HubError, match="no connection"):
        require_login(REPOSITORY, endpoint=unused)
    with pytest.raises(HubError, match=f"pushing .* to {REPOSITORY} failed: no connection"):
        push(folder, REPOSITORY, is_public=False, endpoint=unused)


def test_refused_metadata_is_reported(hub: Hub, folder: Path) -> None:
    hub.metadata_problem = '"license" must be one of the known ones'
    assert '"license" must be one of the known ones' in refusal(HubError, hub, folder)
    assert hub.files == {}
