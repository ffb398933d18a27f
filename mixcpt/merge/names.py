"""What a user may call a model: a folder, a hub id, a finished run, an earlier merge."""

import json
from pathlib import Path

from mixcpt.config import CLOSED_WORLD_BASE, BaseModelConfig
from mixcpt.errors import ConfigError
from mixcpt.records.run import RunResult, find_run
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, resolve_model

_KIND = "model"
ROLES = ("base", "pretrained", "sft", "dpo")
"""The models of a run, in the order in which they are made."""


def find_model(store: ArtifactStore, name: str) -> ModelRef:
    """Returns the model that a name stands for.

    A folder, `closed-world`, a hub id with its owner (`owner/model`), the name of an earlier merge, the name of a
    finished run (its final model), or `RUN@ROLE` for another model of a run: `base`, `pretrained`, `sft`, `dpo`.

    Raises:
        ConfigError: If the store has no such run or merge, or one of each.
        ModelError: If a folder or hub id is no usable model.
    """
    if name == CLOSED_WORLD_BASE or is_place(name):
        return resolve_model(BaseModelConfig(model=name))
    run, _, role = name.partition("@")
    if merged := _find_merge(store, name):
        if _has_run(store, run):
            raise ConfigError(f"both a run and a merge are called {name!r}", f"give the folder {merged.file('model')}")
        return ModelRef.from_artifact(merged, name)
    return _model_of(find_run(store, run), role)


def is_place(name: str) -> bool:
    """Returns whether a name is that of a folder or of a hub's repository.

    A run may be called like a folder of something else that lies here; so only a model's folder goes without a slash.
    """
    return "/" in name or (Path(name).expanduser() / "config.json").is_file()


def merge_name(merged: ArtifactRef) -> str:
    """Returns the name under which a merge was first made, empty for none."""
    return str(merged.record["lineage"].get("name", ""))


def _model_of(run: RunResult, role: str) -> ModelRef:
    if not role:
        return run.final_model
    if role == "base":
        return run.base
    known = [name for name in ROLES if name == "base" or name in run.refs]
    if role not in known:
        raise ConfigError(f"the run {run.name} has no model {role!r}; it has: {', '.join(known)}")
    return ModelRef.from_artifact(run.refs[role], f"{run.name}@{role}")


def _has_run(store: ArtifactStore, name: str) -> bool:
    try:
        return find_run(store, name).name == name
    except ConfigError:
        return False


def _find_merge(store: ArtifactStore, name: str) -> ArtifactRef | None:
    """Returns the newest merge of that name; only its own files are verified, not every model's."""
    records = [json.loads(path.read_text()) for path in (store.root / _KIND).glob("*/record.json")]
    named = [record for record in records if record["lineage"].get("name") == name]
    newest_first = sorted(named, key=lambda record: str(record["created_at"]), reverse=True)
    return next((found for record in newest_first if (found := store.find(_KIND, record["fingerprint"]))), None)
