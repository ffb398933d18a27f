"""The model that a user names: as everywhere, and by what MLflow's registry calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from mixcpt.cli.launch import project_root
from mixcpt.errors import BY_NAME, ModelError
from mixcpt.process.supervisor import module_path
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import ModelRef

HELP = (
    "A folder, closed-world, a hub id (owner/model), a finished run (its final model), RUN@pretrained or another model "
    "of a run, a merge's name, or a registered model: NAME@champion, models:/NAME@champion, models:/NAME/3."
)
_REGISTRY = "models:/"


def named_model(store: ArtifactStore, name: str) -> ModelRef:
    """Returns the model that a name stands for, where its files lie now: the store may have moved since.

    Raises:
        ConfigError: If there is no such run, merge or registered model.
        ModelError: If the model's files are gone or are not those that the name promises.
    """
    from mixcpt.merge.names import ROLES, find_model, is_place

    is_registered = name.startswith(_REGISTRY)
    if is_place(name) and not is_registered:
        return find_model(store, name)
    _, at, role = name.partition("@")
    is_registered = is_registered or (bool(at) and role not in ROLES)
    model = _registered(store, name) if is_registered else find_model(store, name)
    here = store.root.joinpath(*model.directory.parts[-3:])
    for folder in (here, model.directory):
        if (folder / "config.json").is_file():
            return ModelRef(model.name, str(folder), model.digest)
    raise ModelError(
        f"the files of {name} are gone: there is no {model.path}, and none in {store.root}",
        "name the store that has them with --store, or run the configuration again",
    )


def _registered(store: ArtifactStore, name: str) -> ModelRef:
    """Returns a model of MLflow's registry, asked in a process of its own: the library does not know MLflow."""
    command = [sys.executable, "-m", "tasks.resolve", name, "--store", str(store.root)]
    environment = {**os.environ, "PYTHONPATH": module_path(project_root())}
    asked = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        answer = json.loads(asked.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise ModelError(f"MLflow could not be asked for {name}: exit code {asked.returncode}") from None
    if "error" in answer:
        raise BY_NAME[answer["error"]](answer["problem"], answer["hint"])
    model = ModelRef.from_json(answer)
    _require_digest(model)
    return model


def _require_digest(model: ModelRef) -> None:
    """Raises `ModelError` where the files beside the weights tell of other weights than those that were registered."""
    record = Path(model.path).parent / "record.json"
    if record.is_file() and json.loads(record.read_text())["digest"] != model.digest:
        raise ModelError(f"{model.path} no longer holds what was registered as {model.name}", "register it again")
