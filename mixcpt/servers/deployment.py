"""Register deployments with a Prefect server: those in `deployments/prefect.yaml`, and one per preset."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from mixcpt.config import (
    AdaptConfig,
    AdviseConfig,
    CompareConfig,
    EvaluateModelConfig,
    PromoteConfig,
    ReadaptConfig,
    ReconcileConfig,
    RollbackConfig,
    Settings,
    load_config,
    load_settings,
)
from mixcpt.config.presets import OWN_PRESETS, SHIPPED_PRESETS, own_presets, preset_names
from mixcpt.config.presets import PROJECT_ROOT as PROJECT_ROOT
from mixcpt.errors import MixcptError
from mixcpt.process.supervisor import quoted_tail

POOL = "mixcpt"
UPKEEP_POOL = "mixcpt-upkeep"
"""Work pool of short flows that must not wait for a training: reconcile, promote, rollback."""
_FILE = PROJECT_ROOT / "deployments" / "prefect.yaml"
_COMPARISONS = PROJECT_ROOT / "deployments" / "comparisons"
_ROUNDS = ("readapt", "readapt-on-corpus")


@dataclass(frozen=True)
class Pools:
    """Names of work pools; a missing pool is created with the type process."""

    runs: str = POOL
    """Work pool of adaptations, rounds, comparisons and searches."""
    upkeep: str = UPKEEP_POOL
    """Work pool of flows that must not wait for a training; may equal `runs`."""
    gpu: str = ""
    """Work pool of stages that need a GPU; empty runs them in the worker of the flow.

    So does the same pool as `runs`: a flow that holds a slot and waits for another slot of its pool could wait forever.
    """

    @property
    def of_stage_groups(self) -> str:
        """Pool that stages are sent to; empty if they run in the worker of the flow."""
        return "" if self.gpu == self.runs else self.gpu


@dataclass(frozen=True)
class Deployed:
    """Deployments on a Prefect server."""

    pool_of: dict[str, str]
    """Work pools by the names of the deployments."""
    idle: tuple[str, ...]
    """Work pools without a polling worker."""


def module_path() -> str:
    """Return a PYTHONPATH that puts the flows and tasks of the project before all other modules."""
    return os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]))


def deploy(
    api: str,
    store: Path,
    *,
    environment: Mapping[str, str],
    pools: Pools = Pools(),
    rounds: ReadaptConfig | None = None,
    cron: str = "",
    presets: bool = True,
) -> Deployed:
    """Create or update all deployments on a Prefect server.

    Args:
        api: Address of the server's API.
        store: Artifact store of the runs, with the path that the workers use.
        environment: Settings of Prefect added to this process's environment.
        rounds: Settings of scheduled and event-driven re-adaptations; None for the closed world.
        cron: Schedule of re-adaptations; empty for no active schedule.
        presets: Whether to register a deployment for every preset; Prefect takes seconds for each.

    Raises:
        MixcptError: If a command of Prefect fails, with the last lines of its output.
    """
    described = deployments(store, pools=pools, rounds=rounds or ReadaptConfig(), cron=cron, presets=presets)
    pool_of = {item["name"]: str(item["work_pool"]["name"]) for item in described["deployments"]}
    locations = {"PREFECT_API_URL": api, "PWD": str(PROJECT_ROOT), "PYTHONPATH": module_path()}
    listed = {OWN_PRESETS: str(own_presets(store))}  # for the form, whose schema Prefect builds in its own process
    python_environment = {**os.environ, **environment, **locations, **listed}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=PROJECT_ROOT, env=python_environment, capture_output=True, text=True)

    idle = []
    for name in dict.fromkeys(pool_of.values()):
        inspected = python("prefect", "work-pool", "inspect", name, "--output", "json")
        if inspected.returncode:
            _require(python("prefect", "--no-prompt", "work-pool", "create", name, "--type", "process"))
        if inspected.returncode or json.loads(inspected.stdout)["status"] != "READY":
            idle.append(name)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "prefect.yaml"
        path.write_text(yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
        _require(python("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)))
    _require(python("deployments.automations"))
    return Deployed(pool_of=pool_of, idle=tuple(idle))


def deployments(
    store: Path, *, pools: Pools, rounds: ReadaptConfig, cron: str = "", presets: bool = True
) -> dict[str, Any]:
    """Return the content of a file for `prefect deploy`: `prefect.yaml` with filled forms, and the presets."""
    described: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    described.pop("definitions", None)
    by_name = {item["name"]: item for item in described["deployments"]}
    for name, config in _filled(rounds):
        by_name[name]["parameters"] = {"config": _placed(config, store, pools.of_stage_groups)}
    by_name["adapt"]["parameters"] = {"config": _short_form(store, pools.of_stage_groups)}
    full = by_name["adapt-advanced"]
    if cron:
        by_name["readapt"]["schedules"] = [{"cron": cron, "timezone": "UTC", "active": True}]
    files = sorted(SHIPPED_PRESETS.glob("*.yaml")) if presets else []
    described["deployments"] += [_preset(full, path, store, pools.of_stage_groups) for path in files]
    pool_names = {POOL: pools.runs, UPKEEP_POOL: pools.upkeep}
    for item in described["deployments"]:
        item["work_pool"] = item["work_pool"] | {"name": pool_names[item["work_pool"]["name"]]}
    if pools.of_stage_groups:
        described["deployments"].append(_stage_group(full, pools.of_stage_groups))
    return described


def _short_form(store: Path, gpu_pool: str) -> dict[str, Any]:
    """Return the initial values of the short form; the first of the user's presets is chosen if there is any."""
    return {"preset": preset_names(own_presets(store))[0], "store": str(store), "gpu_pool": gpu_pool}


def _stage_group(adapt: Mapping[str, Any], pool: str) -> dict[str, Any]:
    """Return the deployment that runs stages in a pool of its own; it has the name of the pool."""
    changes = {
        "name": pool,
        "description": "Stages that take a GPU, handed over by runs whose `runtime.gpu_pool` names this pool.",
        "entrypoint": "flows.stage_group.stage_group",
        "work_pool": adapt["work_pool"] | {"name": pool},
        "parameters": {},
    }
    return {**adapt, **changes}


def _filled(rounds: ReadaptConfig) -> Iterator[tuple[str, Settings]]:
    """Yield the names of deployments with the initial values of their forms."""
    yield "adapt-advanced", AdaptConfig()
    yield "evaluate-model", EvaluateModelConfig()
    yield "reconcile", ReconcileConfig()
    yield "promote", PromoteConfig()
    yield "rollback", RollbackConfig()
    yield "compare", load_settings(CompareConfig, _COMPARISONS / "closed-world.yaml")
    yield "advise", load_settings(AdviseConfig, _COMPARISONS / "advice.yaml")
    for name in _ROUNDS:
        yield name, rounds


def _preset(full: Mapping[str, Any], path: Path, store: Path, gpu_pool: str) -> dict[str, Any]:
    """Return the full form with the settings of a preset; its first comment becomes the description."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line.lstrip("# ").rstrip() for line in takewhile(lambda line: line.startswith("#"), lines)]
    config = _placed(load_config(path), store, gpu_pool)
    return {**full, "name": f"adapt-{path.stem}", "description": "\n".join(head), "parameters": {"config": config}}


def _placed(config: Settings, store: Path, gpu_pool: str) -> dict[str, Any]:
    """Return settings as the values of a form, with the store and the GPU pool of the workers."""
    data: dict[str, Any] = config.model_dump(mode="json")
    if "store" in data:
        return data | {"store": str(store)}
    node = data
    for key in ("adapt", "settings"):
        node = node.get(key, node)
    node["runtime"] = node.get("runtime", {}) | {"store": str(store), "gpu_pool": gpu_pool}
    return data


def _require(command: "subprocess.CompletedProcess[str]") -> None:
    if command.returncode:
        problem = f"{' '.join(command.args[2:])} failed with code {command.returncode}"
        raise MixcptError(f"{problem}\n{quoted_tail(command.stdout + command.stderr)}")
