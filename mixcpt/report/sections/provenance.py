"""Where everything came from: artifacts, their inputs, their tracked runs, the settings and the libraries."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
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


@dataclass(frozen=True)
class Link:
    """One artifact in the chain from base and sources to the final models."""

    role: str
    runs: Sequence[str]
    ref: ArtifactRef
    inputs: Mapping[str, str]
    """Digest of each input by its role."""
    created_at: str


def links(runs: Sequence[RunResult]) -> list[Link]:
    """Returns the artifacts of all runs in the order in which they are made, each once."""
    made = [_link(role, ref, names) for role in run_roles() for ref, names in shared(runs, role)]
    evaluations: dict[str, tuple[str, ArtifactRef, list[str]]] = {}
    for run in runs:
        for role, ref in run.evaluations.items():
            evaluations.setdefault(ref.fingerprint, (f"evaluation of {role}", ref, []))[2].append(run.name)
    return made + [_link(role, ref, names) for role, ref, names in evaluations.values()]


def tracked(run: RunResult) -> dict[str, str]:
    """Returns where MLflow keeps the run, without the credentials that an address may hold; empty if nowhere."""
    tracking = run.tracking
    places = {
        "tracking server": _CREDENTIALS.sub("", tracking.uri),
        "experiment": tracking.experiment_id,
        "run": tracking.run_id,
        "registered version": tracking.model_version,
    }
    return {name: place for name, place in places.items() if place}


def differences(runs: Sequence[RunResult]) -> dict[str, list[Any]]:
    """Returns the settings, by key path, in which the runs differ, with the value of each run."""
    flat = [_flatten(run.config.model_dump(mode="json", exclude={"runtime"})) for run in runs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    values = {key: [settings.get(key, "") for settings in flat] for key in keys if key != "name"}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def libraries() -> dict[str, str]:
    """Returns the versions of the libraries that decide results, as installed now."""
    found = {"python": python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _link(role: str, ref: ArtifactRef, names: Sequence[str]) -> Link:
    record = ref.record
    return Link(role, list(dict.fromkeys(names)), ref, record["inputs"], record["created_at"])


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {
            key: leaf
            for name, item in value.items()
            for key, leaf in _flatten(item, f"{path}.{name}" if path else name).items()
        }
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {
            key: leaf for index, item in enumerate(value) for key, leaf in _flatten(item, f"{path}[{index}]").items()
        }
    return {path: value}
