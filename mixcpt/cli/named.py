"""Look up the model that a user names: a folder, a run, a merge, or a model of the MLflow registry."""

import json
import os
import subprocess
import sys
from pathlib import Path

from mixcpt.errors import BY_NAME, ModelError
from mixcpt.servers.deployment import module_path
from mixcpt.stages.registry import trained_roles
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import ModelRef

HELP = (
    "Model: a folder, closed-world, a hub id (owner/model), a run (its final model), RUN@base or another model of "
    "a run, the name of a merge, or a registered model: NAME@champion, models:/NAME@champion, models:/NAME/3."
)
_REGISTRY = "models:/"


def named_model(store: ArtifactStore, name: str) -> ModelRef:
    """Return the model with this name, with the present path of its files: the store may have moved.

    Raises:
        ConfigError: If there is no such run, merge or registered model.
        ModelError: If the model's files are missing or have changed.
    """
    from mixcpt.merge.names import find_model, is_place

    is_registered = name.startswith(_REGISTRY)
    if is_place(name) and not is_registered:
        return find_model(store, name)
    _, at, role = name.partition("@")
    is_registered = is_registered or (bool(at) and role not in ("base", *trained_roles()))
    model = _registered(store, name) if is_registered else find_model(store, name)
    here = store.root.joinpath(*model.directory.parts[-3:])
    for folder in (here, model.directory):
        if (folder / "config.json").is_file():
            return ModelRef(model.name, str(folder), model.digest)
    problem = f"the files of {name} are missing: neither {model.path} nor {here} exists"
    raise ModelError(problem, "name the store that has them with --store, or run the configuration again")


def _registered(store: ArtifactStore, name: str) -> ModelRef:
    """Look up a model of the MLflow registry in a separate process: this library does not import MLflow."""
    command = [sys.executable, "-P", "-m", "tasks.resolve", name, "--store", str(store.root)]
    environment = {**os.environ, "PYTHONPATH": module_path()}
    lookup = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        answer = json.loads(lookup.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        problem = f"the lookup of {name} in MLflow failed with exit code {lookup.returncode}"
        raise ModelError(problem, "see the messages above; check MLFLOW_TRACKING_URI and --store") from None
    if "error" in answer:
        raise BY_NAME[answer["error"]](answer["problem"], answer["hint"])
    model = ModelRef.from_json(answer)
    record = Path(model.path).parent / "record.json"
    if record.is_file() and json.loads(record.read_text())["digest"] != model.digest:
        raise ModelError(f"{model.path} has changed since it was registered as {model.name}", "register it again")
    return model
