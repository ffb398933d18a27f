"""What a Prefect server is told: the deployments of `deployments/prefect.yaml`, filled in, and one for each preset."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from mixcpt.config import (
    AdaptConfig,
    EvaluateModelConfig,
    PromoteConfig,
    ReadaptConfig,
    ReconcileConfig,
    RollbackConfig,
    Settings,
    load_advise,
    load_compare,
    load_config,
)
from mixcpt.errors import MixcptError
from mixcpt.process.supervisor import module_path, quoted_tail

POOL = "mixcpt"
UPKEEP_POOL = "mixcpt-upkeep"
"""Work pool of what takes seconds and must not wait behind a training: reconcile, promote, rollback."""
_FILE = Path("deployments") / "prefect.yaml"
_PRESETS = Path("deployments") / "configs"
_COMPARISONS = Path("deployments") / "comparisons"
_ROUNDS = ("readapt", "readapt-on-corpus")


@dataclass(frozen=True)
class Pools:
    """The work pools of a server, each made, of type process, where there is none of that name."""

    runs: str = POOL
    upkeep: str = UPKEEP_POOL
    """Of what must not wait behind a training; it may be the same."""
    gpu: str = ""
    """Of the stages that take a GPU; where it is empty, or the same, they stay where the flow runs: a flow that keeps a
    slot and waits for another one of its own pool could wait forever."""

    @property
    def of_stations(self) -> str:
        """The pool to which stages are handed over; empty for none."""
        return "" if self.gpu == self.runs else self.gpu


@dataclass(frozen=True)
class Deployed:
    """What a Prefect server was told."""

    pool_of: dict[str, str]
    """The work pool of each deployment, by its name."""
    idle: tuple[str, ...]
    """Those pools that no worker was polling."""


def deploy(
    api: str,
    store: Path,
    *,
    root: Path,
    environment: Mapping[str, str],
    pools: Pools = Pools(),
    rounds: ReadaptConfig | None = None,
    cron: str = "",
    presets: bool = True,
) -> Deployed:
    """Returns what a Prefect server has afterwards; the same again changes nothing.

    Args:
        api: Address of the server.
        store: Artifact store of the runs, as the workers see it.
        root: The checkout, as the workers see it.
        environment: Settings of Prefect on top of this process's own.
        pools: Where they run.
        rounds: What is re-adapted, by schedule and by event; the closed world if not given.
        cron: When, by schedule; empty leaves it to whoever switches the schedule on.
        presets: Whether each preset gets a deployment too; Prefect takes seconds for each.

    Raises:
        MixcptError: With the end of what Prefect said.
    """
    described = deployments(root, store, pools=pools, rounds=rounds or ReadaptConfig(), cron=cron, presets=presets)
    pool_of = {each["name"]: str(each["work_pool"]["name"]) for each in described["deployments"]}
    told = {
        **os.environ,
        **environment,
        "PREFECT_API_URL": api,
        "PWD": str(root),
        "PYTHONPATH": module_path(root),
    }

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=root, env=told, capture_output=True, text=True)

    idle = []
    for name in dict.fromkeys(pool_of.values()):
        found = python("prefect", "work-pool", "inspect", name, "--output", "json")
        if found.returncode:
            _require(python("prefect", "--no-prompt", "work-pool", "create", name, "--type", "process"))
        if found.returncode or json.loads(found.stdout)["status"] != "READY":
            idle.append(name)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "prefect.yaml"
        path.write_text(yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
        _require(python("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)))
    _require(python("deployments.automations"))
    return Deployed(pool_of, tuple(idle))


def deployments(
    root: Path,
    store: Path,
    *,
    pools: Pools,
    rounds: ReadaptConfig,
    cron: str = "",
    presets: bool = True,
) -> dict[str, Any]:
    """Returns what `prefect deploy` reads: the file of the checkout, its forms filled, and a deployment a preset."""
    described: dict[str, Any] = yaml.safe_load((root / _FILE).read_text(encoding="utf-8"))
    described.pop("definitions", None)
    of = {each["name"]: each for each in described["deployments"]}
    for name, config in _filled(root, rounds):
        of[name]["parameters"] = {"config": _placed(config, store, pools.of_stations)}
    if cron:
        of["readapt"]["schedules"] = [{"cron": cron, "timezone": "UTC", "active": True}]
    files = sorted((root / _PRESETS).glob("*.yaml")) if presets else []
    described["deployments"] += [_preset(of["adapt"], path, store, pools.of_stations) for path in files]
    named = {POOL: pools.runs, UPKEEP_POOL: pools.upkeep}
    for each in described["deployments"]:
        each["work_pool"] = each["work_pool"] | {"name": named[each["work_pool"]["name"]]}
    if pools.of_stations:
        described["deployments"].append(_station(of["adapt"], pools.of_stations))
    return described


def _station(adapt: Mapping[str, Any], pool: str) -> dict[str, Any]:
    """Returns the deployment of the stages that are handed over to a pool; it has the pool's name."""
    told = {
        "name": pool,
        "description": "Stages that take a GPU, handed over by runs whose `runtime.gpu_pool` names this pool.",
        "entrypoint": "flows.stage_group.station",
        "work_pool": adapt["work_pool"] | {"name": pool},
        "parameters": {},
    }
    return {**adapt, **told}


def _filled(root: Path, rounds: ReadaptConfig) -> Iterator[tuple[str, Settings]]:
    """Yields what each form shows when it is opened."""
    yield "adapt", AdaptConfig()
    yield "evaluate-model", EvaluateModelConfig()
    yield "reconcile", ReconcileConfig()
    yield "promote", PromoteConfig()
    yield "rollback", RollbackConfig()
    yield "compare", load_compare(root / _COMPARISONS / "closed-world.yaml")
    yield "advise", load_advise(root / _COMPARISONS / "advice.yaml")
    for name in _ROUNDS:
        yield name, rounds


def _preset(adapt: Mapping[str, Any], path: Path, store: Path, gpu_pool: str) -> dict[str, Any]:
    """Returns the deployment `adapt` with the settings of a preset, described by the comment at its head."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line.lstrip("# ").rstrip() for line in lines[: next(n for n, line in enumerate(lines) if line[:1] != "#")]]
    config = _placed(load_config(path), store, gpu_pool)
    return {**adapt, "name": f"adapt-{path.stem}", "description": "\n".join(head), "parameters": {"config": config}}


def _placed(config: Settings, store: Path, gpu_pool: str) -> dict[str, Any]:
    """Returns settings as a form holds them, with the store and the GPU pool of the workers."""
    data: dict[str, Any] = config.model_dump(mode="json")
    if "store" in data:
        return data | {"store": str(store)}
    node = data
    for key in ("adapt", "settings"):
        node = node.get(key, node)
    node["runtime"] = node.get("runtime", {}) | {"store": str(store), "gpu_pool": gpu_pool}
    return data


def _require(done: "subprocess.CompletedProcess[str]") -> None:
    if done.returncode:
        raise MixcptError(f"{' '.join(done.args[2:])} failed\n{quoted_tail(done.stdout + done.stderr)}")
