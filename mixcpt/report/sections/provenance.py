"""Provenance of the runs: artifacts with their inputs, tracked runs, settings and library versions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from platform import python_version
from typing import Any

from mixcpt.records.run import RunResult
from mixcpt.report.view import shared
from mixcpt.stages.registry import run_roles
from mixcpt.store.artifacts import ArtifactRef

_LIBRARIES = (
    "mixcpt", "torch", "transformers", "tokenizers", "trl", "datasets", "accelerate", "lm-eval", "numpy", "pandas",
    "pyarrow", "scipy",
)  # fmt: skip
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True, kw_only=True)
class Link:
    """One artifact between the base and sources and the final models."""

    role: str
    runs: Sequence[str]
    ref: ArtifactRef
    inputs: Mapping[str, str]
    """Digests of the inputs by role."""
    created_at: str


def links(runs: Sequence[RunResult]) -> list[Link]:
    """Return the distinct artifacts of all runs in the order of production."""
    artifacts = []
    for role in run_roles():
        artifacts += [_link(role, ref, names) for ref, names in shared(runs, role)]
    evaluations: dict[str, tuple[str, ArtifactRef, list[str]]] = {}
    for run in runs:
        for role, ref in run.evaluations.items():
            evaluations.setdefault(ref.fingerprint, (f"evaluation of {role}", ref, []))[2].append(run.name)
    return artifacts + [_link(role, ref, names) for role, ref, names in evaluations.values()]


def tracked(run: RunResult) -> dict[str, str]:
    """Return the location of the run in MLflow without credentials; empty if the run was not tracked."""
    tracking = run.tracking
    fields = {
        "tracking server": _CREDENTIALS.sub("", tracking.uri),
        "experiment": tracking.experiment_id,
        "run": tracking.run_id,
        "registered version": tracking.model_version,
    }
    return {name: value for name, value in fields.items() if value}


def differences(runs: Sequence[RunResult]) -> dict[str, list[Any]]:
    """Return the settings that differ between the runs: the values of all runs by key path."""
    flat = [_flatten(run.config.model_dump(mode="json", exclude={"runtime"})) for run in runs]
    keys = dict.fromkeys(chain.from_iterable(flat))
    values = {key: [settings.get(key, "") for settings in flat] for key in keys if key != "name"}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def libraries() -> dict[str, str]:
    """Return the installed versions of the libraries that can change results."""
    versions = {"python": python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _link(role: str, ref: ArtifactRef, names: Sequence[str]) -> Link:
    record = ref.record
    return Link(
        role=role,
        runs=list(dict.fromkeys(names)),
        ref=ref,
        inputs=record["inputs"],
        created_at=record["created_at"],
    )


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested settings by key path, e.g. `tasks[0].name`."""
    if isinstance(value, dict) and value:
        children = {f"{path}.{name}" if path else name: item for name, item in value.items()}
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        children = {f"{path}[{index}]": item for index, item in enumerate(value)}
    else:
        return {path: value}
    leaves: dict[str, Any] = {}
    for child_path, item in children.items():
        leaves |= _flatten(item, child_path)
    return leaves
