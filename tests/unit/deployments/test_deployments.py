"""Deployments of the Prefect server: every flow can be imported, and its form has the settings that the flow takes."""

import importlib
import inspect
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from prefect import Flow
from prefect.exceptions import ParameterTypeError
from pydantic import BaseModel

from mixcpt.config import AdaptConfig, CorpusConfig, ReadaptConfig, load_settings
from mixcpt.servers.deployment import Pools, deployments

ROOT = Path(__file__).parents[3]
STORE = Path("/data/mixcpt")
UPKEEP = {"reconcile", "promote", "rollback"}


@pytest.fixture(scope="module")
def described() -> dict[str, dict[str, Any]]:
    described = deployments(STORE, pools=Pools("gpu"), rounds=ReadaptConfig(name="ours"), cron="0 4 * * *")
    names = [deployment["name"] for deployment in described["deployments"]]
    assert len(names) == len(set(names))
    return dict(zip(names, described["deployments"], strict=True))


def flow_of(deployment: dict[str, Any]) -> "Flow[..., object]":
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert isinstance(flow, Flow)
    return flow


def test_deployments_hold_settings_that_their_flows_take(described: dict[str, dict[str, Any]]) -> None:
    for name, deployment in described.items():
        flow = flow_of(deployment)
        hints = get_type_hints(flow.fn)
        assert set(deployment["parameters"]) <= set(inspect.signature(flow.fn).parameters), name
        for parameter, value in deployment["parameters"].items():
            assert issubclass(hints[parameter], BaseModel)
            given = {"model": "m", "documents": ["d"]} if name == "adapt" else {}  # the short form needs them
            config = hints[parameter].model_validate({**value, **given})
            assert str(STORE) in config.model_dump_json(), f"{name} uses another store"


def test_every_flow_and_preset_has_a_deployment(described: dict[str, dict[str, Any]]) -> None:
    expected = {
        "adapt",
        "adapt-advanced",
        "readapt",
        "readapt-on-corpus",
        "compare",
        "advise",
        "evaluate-model",
        "reconcile",
        "promote",
    }
    presets = {f"adapt-{path.stem}" for path in (ROOT / "deployments" / "configs").glob("*.yaml")}
    assert expected | presets <= set(described)
    for name, deployment in described.items():
        assert deployment["work_pool"]["name"] == ("mixcpt-upkeep" if name in UPKEEP else "gpu")
        assert deployment["description"].strip(), name
        assert deployment["pull"][0]["prefect.deployments.steps.set_working_directory"]["directory"] == "{{ $PWD }}"


def test_gpu_pool_gets_the_gpu_stages_of_every_run() -> None:
    described = deployments(STORE, pools=Pools("cpu", gpu="gpu"), rounds=ReadaptConfig())["deployments"]
    (stage_group,) = (deployment for deployment in described if deployment["work_pool"]["name"] == "gpu")
    assert (stage_group["name"], flow_of(stage_group).name) == ("gpu", "stage-group")
    runs = [deployment["parameters"]["config"] for deployment in described if deployment is not stage_group]
    placed = [run.get("adapt", run.get("settings", run)).get("runtime", run) for run in runs]
    assert sum(runtime.get("gpu_pool") == "gpu" for runtime in placed) >= 10


def test_gpu_pool_equal_to_the_run_pool_gets_no_separate_stages() -> None:
    described = deployments(STORE, pools=Pools("cpu", gpu="cpu"), rounds=ReadaptConfig())
    assert described == deployments(STORE, pools=Pools("cpu"), rounds=ReadaptConfig())


def test_upkeep_can_share_the_run_pool() -> None:
    described = deployments(STORE, pools=Pools("cpu", "cpu"), rounds=ReadaptConfig())["deployments"]
    assert {deployment["work_pool"]["name"] for deployment in described} == {"cpu"}


def test_presets_state_hardware_time_and_result(described: dict[str, dict[str, Any]]) -> None:
    for name, deployment in described.items():
        if name.startswith("adapt-") and name != "adapt-advanced":
            assert "Hardware: " in deployment["description"], name
            assert "Time: " in deployment["description"], name
            assert "Expect: " in deployment["description"], name
            AdaptConfig.model_validate(deployment["parameters"]["config"])


def test_rounds_have_a_schedule_an_event_and_one_at_a_time(described: dict[str, dict[str, Any]]) -> None:
    assert described["readapt"]["schedules"] == [{"cron": "0 4 * * *", "timezone": "UTC", "active": True}]
    off = deployments(STORE, pools=Pools("gpu"), rounds=ReadaptConfig())["deployments"]
    assert next(deployment for deployment in off if deployment["name"] == "readapt")["schedules"][0]["active"] is False
    (trigger,) = described["readapt-on-corpus"]["triggers"]
    assert trigger["expect"] == ["mixcpt.corpus.registered"]
    for name in ("readapt", "readapt-on-corpus"):
        assert described[name]["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        assert described[name]["parameters"]["config"]["name"] == "ours"


def test_round_files_of_the_checkout_load() -> None:

    folder = ROOT / "deployments" / "rounds"
    assert load_settings(ReadaptConfig, folder / "closed-world.yaml").adapt.curation.sources[0].name == "world-0"
    assert {load_settings(CorpusConfig, path).name for path in folder.glob("world-*.yaml")} == {
        f"world-{n}" for n in range(1, 5)
    }


def test_form_value_with_an_old_key_names_the_new_one() -> None:
    adapt = flow_of({"entrypoint": "flows.adapt.adapt"})
    with pytest.raises(
        ParameterTypeError, match=r"config\.pretrain\.retention.*\n?.*the key sure was renamed to confidence"
    ):
        adapt.validate_parameters({"config": {"pretrain": {"retention": {"sure": 0.9}}}})
