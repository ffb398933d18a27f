"""Planned and measured costs in the report and in the metrics of the run."""

from dataclasses import replace
from pathlib import Path

import pytest

from mixcpt.records.plan import Device, Disk, Memory, Plan, SourceShare, StagePlan, find_plan, plan_key, save_plan
from mixcpt.records.run import RunResult, run_identity
from mixcpt.report.page import write_report
from mixcpt.report.summary import summarise
from mixcpt.store.artifacts import ArtifactStore
from tasks.reporting import figures
from tests.unit.report_artifacts import hits, run

RIGHT = {"domain_questions": hits(40, 0.2), "general_questions_unasked": hits(50, 0.8)}


def made(name: str = "mine") -> Plan:
    """A plan of 1.3 M tokens for a run with as many tokens and twice the peak memory."""
    device = Device(
        name="cpu",
        count=1,
        memory_bytes=2**34,
        peak_flops=1e11,
        fp32_flops=1e11,
        bytes_per_second=1e10,
        utilisation=0.6,
        is_here=True,
    )
    pretrained = StagePlan(
        stage="pretrained",
        seconds=236.4,
        tokens=1_300_000,
        steps=300,
        rows=5078,
        student_flops=int(10.4e12),
        teacher_flops=int(5.2e12),
        peak_memory_bytes=725_000_000,
    )
    memory = Memory(
        stage="pretrained",
        parameters=8,
        gradients=8,
        optimizer=16,
        teacher=8,
        activations=100,
        head=20,
        process=500,
    )
    share = SourceShare(name="anatomy", pool="domain", unique_tokens=200_000, tokens=650_000, is_exact=True)
    return Plan(
        name=name,
        basis="analytic",
        device=device,
        num_parameters=2_000_000,
        num_trained_parameters=2_000_000,
        sources=(share,),
        stages=(pretrained,),
        memory=(memory,),
        disk=Disk(mixture=1, checkpoints=2, models=3, teacher_cache=0, free=100),
        ram_bytes=2**30,
        start_seconds=10.0,
    )


def keep(store: ArtifactStore, result: RunResult, plan: Plan, measured_at: str = "") -> None:
    identity = run_identity(result.config, result.base, result.refs["corpus"].fingerprint)
    save_plan(store, plan_key(identity, {}, plan.device.name, 1, measured_at=measured_at), lambda: plan)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


@pytest.fixture
def result(store: ArtifactStore) -> RunResult:
    return run(store, "mine", base_right=RIGHT, final_right=RIGHT)


def test_plan_survives_json() -> None:
    assert Plan.from_json(made().to_json()) == made()


def test_plan_of_an_earlier_version_loads_its_trial_as_a_dry_run() -> None:
    assert Plan.from_json(made().to_json() | {"basis": "trial"}) == replace(made(), basis="dry run")


def test_run_without_a_plan_shows_none(result: RunResult, store: ArtifactStore, tmp_path: Path) -> None:
    assert summarise([result]).runs[0].planned == []
    assert "planned and measured" not in write_report([result], store, tmp_path / "page.html").read_text()


def test_run_with_a_plan_shows_it_beside_what_was_measured(
    result: RunResult, store: ArtifactStore, tmp_path: Path
) -> None:
    keep(store, result, made())
    (summary,) = summarise([result]).runs
    stage, total = summary.planned
    assert stage.pairs["tokens"] == (1_300_000, 1_300_000)
    assert stage.pairs["seconds"] == (236.4, 118.2)
    assert stage.pairs["peak_memory_bytes"] == (725_000_000, 1_450_000_000)
    assert total.pairs["seconds"] == (236.4, 118.2)
    page = write_report([result], store, tmp_path / "page.html").read_text()
    assert "planned and measured" in page
    assert "(200.0" in page and "(50.0" in page  # of the planned memory and time


def test_figures_of_a_run_have_both(result: RunResult, store: ArtifactStore) -> None:
    keep(store, result, made())
    values = figures(summarise([result]).runs[0])
    assert (values["plan/pretrained/seconds"], values["measured/pretrained/seconds"]) == (236.4, 118.2)
    assert values["plan/pretrained/tokens"] == values["measured/pretrained/tokens"] == 1_300_000
    assert values["plan/total/peak_memory_bytes"] == 725_000_000


def test_plan_of_a_run_is_its_last_dry_run_and_never_another_machines(result: RunResult, store: ArtifactStore) -> None:
    elsewhere = replace(made("elsewhere"), device=replace(made().device, name="h100", is_here=False))
    keep(store, result, elsewhere, "1")
    assert find_plan(store, result) is None
    for number, (name, basis) in enumerate([("first", "dry run"), ("second", "dry run"), ("formulas", "analytic")]):
        keep(store, result, replace(made(name), basis=basis), f"2{number}")  # type: ignore[arg-type]
    plan = find_plan(store, result)
    assert plan is not None and plan.name == "second"
    other = result.config.model_copy(update={"seed": 7})
    assert find_plan(store, replace(result, config=other)) is None
