"""Finished stages are recorded in MLflow while the flow continues, in order, and no error is lost."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from mixcpt.config import AdaptConfig, RuntimeConfig
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from tasks import watching
from tasks.adaptation import Adaptation
from tests.unit.report_artifacts import publish

SLOW_SECONDS = 60


@pytest.fixture
def adaptation(tmp_path: Path, tiny_model: ModelRef) -> Adaptation:
    config = AdaptConfig(runtime=RuntimeConfig(store=str(tmp_path / "store")))
    return Adaptation(config=config, base=tiny_model, key="key")


@pytest.fixture
def stages(adaptation: Adaptation, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Job, ArtifactRef]]:
    monkeypatch.setattr(watching, "_recordings", defaultdict(list))
    store = ArtifactStore(adaptation.config.runtime.store)
    jobs = [Job(name=name, stage="curate", config={}, seed=0) for name in ("first", "second")]
    return [(job, publish(store, "corpus", {"x.json": job.name}, metrics={})) for job in jobs]


def test_stages_are_recorded_in_order_while_the_flow_continues(
    adaptation: Adaptation, stages: list[tuple[Job, ArtifactRef]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server_responds, recorded = Event(), []

    def record_slowly(tracking: object, job: Job, *more: Any, **options: Any) -> str:
        assert server_responds.wait(SLOW_SECONDS)
        recorded.append(job.name)
        return job.name

    monkeypatch.setattr(watching, "record_stage", record_slowly)
    for job, ref in stages:
        watching.record(adaptation, job, ref)
    assert recorded == []
    server_responds.set()
    watching.wait_until_recorded(adaptation)
    assert recorded == ["first", "second"]


def test_recording_error_is_raised_only_for_its_own_run(
    adaptation: Adaptation, stages: list[tuple[Job, ArtifactRef]], monkeypatch: pytest.MonkeyPatch
) -> None:
    another, recorded = replace(adaptation, run_id="another"), []

    def fail_for_the_first_run(tracking: object, job: Job, *more: Any, parent: str, **options: Any) -> str:
        if parent != another.run_id:
            raise KeyError("no such metric")
        recorded.append(job.name)
        return job.name

    monkeypatch.setattr(watching, "record_stage", fail_for_the_first_run)
    watching.record(adaptation, *stages[0])
    watching.record(another, *stages[1])
    watching.wait_until_recorded(another)
    assert recorded == ["second"]
    with pytest.raises(KeyError, match="no such metric"):
        watching.wait_until_recorded(adaptation)
