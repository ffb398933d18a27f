"""Finds the model for a name: a folder, a hub id, a finished run, or an earlier merge."""

import json
from pathlib import Path

from mixcpt.config import CLOSED_WORLD_BASE, BaseModelConfig
from mixcpt.errors import ConfigError
from mixcpt.records.run import RunResult, find_run
from mixcpt.stages.registry import trained_roles
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, resolve_model

_KIND = "model"


def find_model(store: ArtifactStore, name: str) -> ModelRef:
    """Return the model for a name.

    The name is a folder, `closed-world`, a hub id with its owner (`owner/model`), the name of an earlier merge, the
    name of a finished run (its final model), or `RUN@ROLE` for a model of a run: `base`, `pretrained`, `sft`, `dpo`.

    Raises:
        ConfigError: If the store has no such run or merge, or both.
        ModelError: If the folder or hub id has no usable model.
    """
    if name == CLOSED_WORLD_BASE or is_place(name):
        return resolve_model(BaseModelConfig(model=name))
    run, _, role = name.partition("@")
    if merged := _find_merge(store, name):
        if _has_run(store, run):
            raise ConfigError(
                f"both a run and a merge have the name {name!r}", f"give the folder {merged.file('model')}"
            )
        return ModelRef.from_artifact(merged, name)
    return _model_of(find_run(store, run), role)


def is_place(name: str) -> bool:
    """Return whether a name is a folder or a repository of a hub.

    Without a slash, only a model's folder counts: a run may share its name with some other folder here.
    """
    return "/" in name or (Path(name).expanduser() / "config.json").is_file()


def merge_name(merged: ArtifactRef) -> str:
    """Return the name that a merge was first made under; empty if it had none."""
    return str(merged.record["lineage"].get("name", ""))


def _model_of(run: RunResult, role: str) -> ModelRef:
    if not role:
        return run.final_model
    if role == "base":
        return run.base
    roles = [name for name in ("base", *trained_roles()) if name == "base" or name in run.refs]
    if role not in roles:
        raise ConfigError(f"the run {run.name} has no model {role!r}; it has: {', '.join(roles)}")
    return ModelRef.from_artifact(run.refs[role], f"{run.name}@{role}")


def _has_run(store: ArtifactStore, name: str) -> bool:
    try:
        return find_run(store, name).name == name
    except ConfigError:
        return False


def _find_merge(store: ArtifactStore, name: str) -> ArtifactRef | None:
    """Return the newest merge with a name; verifies only the files of that merge, not of every model."""
    records = [json.loads(path.read_text()) for path in (store.root / _KIND).glob("*/record.json")]
    named = [record for record in records if record["lineage"].get("name") == name]
    for record in sorted(named, key=lambda record: str(record["created_at"]), reverse=True):
        if ref := store.find(_KIND, record["fingerprint"]):
            return ref
    return None
