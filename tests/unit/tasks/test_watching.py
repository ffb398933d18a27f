"""MLflow is told of finished stages while the flow goes on: in order, and nothing that goes wrong is lost."""

from collections import defaultdict
from collections.abc import Iterator
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
def stages(adaptation: Adaptation, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Job, ArtifactRef]]]:
    monkeypatch.setattr(watching, "_recordings", defaultdict(list))
    store = ArtifactStore(adaptation.config.runtime.store)
    names = ("first", "second")
    jobs = [Job(name=name, stage="curate", config={}, seed=0) for name in names]
    yield [(job, publish(store, "corpus", {"x.json": job.name}, metrics={})) for job in jobs]


def test_stages_are_recorded_in_order_while_the_flow_goes_on(
    adaptation: Adaptation, stages: list[tuple[Job, ArtifactRef]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, told = Event(), []

    def slow_server(tracking: object, job: Job, *more: Any) -> str:
        assert answers.wait(SLOW_SECONDS)
        told.append(job.name)
        return job.name

    monkeypatch.setattr(watching, "record_stage", slow_server)
    for job, ref in stages:
        watching.record(adaptation, job, ref)
    assert told == []
    answers.set()
    watching.wait_until_recorded(adaptation)
    assert told == ["first", "second"]


def test_what_goes_wrong_is_raised_where_its_run_is_waited_for(
    adaptation: Adaptation, stages: list[tuple[Job, ArtifactRef]], monkeypatch: pytest.MonkeyPatch
) -> None:
    another, told = replace(adaptation, run_id="another"), []

    def broken_for_one(tracking: object, job: Job, ref: ArtifactRef, spool: object, run_id: str, *more: Any) -> str:
        if run_id != another.run_id:
            raise KeyError("no such metric")
        told.append(job.name)
        return job.name

    monkeypatch.setattr(watching, "record_stage", broken_for_one)
    watching.record(adaptation, *stages[0])
    watching.record(another, *stages[1])
    watching.wait_until_recorded(another)
    assert told == ["second"]
    with pytest.raises(KeyError, match="no such metric"):
        watching.wait_until_recorded(adaptation)
