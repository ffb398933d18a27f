"""What a Prefect server is told: every deployment can be imported, and its form holds what its flow takes."""

import importlib
import inspect
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from prefect import Flow
from pydantic import BaseModel

from mixcpt.config import AdaptConfig, ReadaptConfig, load_readapt
from mixcpt.servers.deployment import Pools, deployments

ROOT = Path(__file__).parents[3]
STORE = Path("/data/mixcpt")
UPKEEP = {"reconcile", "promote", "rollback"}


@pytest.fixture(scope="module")
def described() -> dict[str, dict[str, Any]]:
    told = deployments(ROOT, STORE, pools=Pools("gpu"), rounds=ReadaptConfig(name="ours"), cron="0 4 * * *")
    names = [each["name"] for each in told["deployments"]]
    assert len(names) == len(set(names))
    return dict(zip(names, told["deployments"], strict=True))


def flow_of(deployment: dict[str, Any]) -> "Flow[..., object]":
    module, _, name = deployment["entrypoint"].rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Flow)
    return found


def test_deployments_hold_settings_that_their_flows_take(described: dict[str, dict[str, Any]]) -> None:
    for name, deployment in described.items():
        flow = flow_of(deployment)
        hints = get_type_hints(flow.fn)
        assert set(deployment["parameters"]) <= set(inspect.signature(flow.fn).parameters), name
        for parameter, value in deployment["parameters"].items():
            assert issubclass(hints[parameter], BaseModel)
            config = hints[parameter].model_validate(value)
            assert str(STORE) in config.model_dump_json(), f"{name} works in another store"


def test_deployments_have_all_that_is_promised(described: dict[str, dict[str, Any]]) -> None:
    promised = {"adapt", "readapt", "readapt-on-corpus", "compare", "advise", "evaluate-model", "reconcile", "promote"}
    presets = {f"adapt-{path.stem}" for path in (ROOT / "deployments" / "configs").glob("*.yaml")}
    assert promised | presets <= set(described)
    for name, deployment in described.items():
        assert deployment["work_pool"]["name"] == ("mixcpt-upkeep" if name in UPKEEP else "gpu")
        assert deployment["description"].strip(), name
        assert deployment["pull"][0]["prefect.deployments.steps.set_working_directory"]["directory"] == "{{ $PWD }}"


def test_gpu_pool_gets_the_stages_that_take_a_gpu_from_every_run() -> None:
    told = deployments(ROOT, STORE, pools=Pools("cpu", gpu="gpu"), rounds=ReadaptConfig())["deployments"]
    (station,) = (each for each in told if each["work_pool"]["name"] == "gpu")
    assert (station["name"], flow_of(station).name) == ("gpu", "station")
    runs = [each["parameters"]["config"] for each in told if each is not station]
    placed = [run.get("adapt", run.get("settings", run)).get("runtime", {}) for run in runs]
    assert sum(runtime.get("gpu_pool") == "gpu" for runtime in placed) >= 10


def test_gpu_pool_that_is_the_pool_of_all_others_hands_nothing_over() -> None:
    told = deployments(ROOT, STORE, pools=Pools("cpu", gpu="cpu"), rounds=ReadaptConfig())
    assert told == deployments(ROOT, STORE, pools=Pools("cpu"), rounds=ReadaptConfig())


def test_upkeep_may_share_the_pool_of_all_others() -> None:
    told = deployments(ROOT, STORE, pools=Pools("cpu", "cpu"), rounds=ReadaptConfig())["deployments"]
    assert {each["work_pool"]["name"] for each in told} == {"cpu"}


def test_presets_say_what_they_need_and_keep_their_settings(described: dict[str, dict[str, Any]]) -> None:
    for name, deployment in described.items():
        if name.startswith("adapt-"):
            assert "Hardware: " in deployment["description"], name
            assert "Time: " in deployment["description"], name
            assert "Expect: " in deployment["description"], name
            AdaptConfig.model_validate(deployment["parameters"]["config"])


def test_rounds_have_a_schedule_an_event_and_one_at_a_time(described: dict[str, dict[str, Any]]) -> None:
    assert described["readapt"]["schedules"] == [{"cron": "0 4 * * *", "timezone": "UTC", "active": True}]
    off = deployments(ROOT, STORE, pools=Pools("gpu"), rounds=ReadaptConfig())["deployments"]
    assert next(each for each in off if each["name"] == "readapt")["schedules"][0]["active"] is False
    (trigger,) = described["readapt-on-corpus"]["triggers"]
    assert trigger["expect"] == ["mixcpt.corpus.registered"]
    for name in ("readapt", "readapt-on-corpus"):
        assert described[name]["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        assert described[name]["parameters"]["config"]["name"] == "ours"


def test_rounds_of_the_checkout_are_whole() -> None:
    from mixcpt.config import load_corpus

    folder = ROOT / "deployments" / "rounds"
    assert load_readapt(folder / "closed-world.yaml").adapt.curation.sources[0].name == "world-0"
    assert {load_corpus(path).name for path in folder.glob("world-*.yaml")} == {f"world-{n}" for n in range(1, 5)}
