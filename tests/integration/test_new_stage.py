"""A new stage is one entry of the table, one settings class and one module; the rest of the system is unchanged."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from mixcpt.config import AdaptConfig
from mixcpt.records.run import RunResult, find_run
from mixcpt.report.page import write_report
from mixcpt.stages import registry
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from tasks.adaptation import Adaptation, open_adaptation, track
from tasks.stage_groups import run_stage_group
from tasks.stages import curate, stage_task
from tasks.tracking import STAGE_KEY, Place, open_tracking
from tasks.watching import wait_until_recorded

pytestmark = pytest.mark.e2e

WORD_COUNT = '''
"""The stage `count`: the words of a corpus."""

import json

import pyarrow.parquet as parquet

from mixcpt.config import Settings
from mixcpt.stages.registry import Stage
from mixcpt.store.artifacts import StageKey


class CountConfig(Settings):
    """Settings of the word count."""

    min_letters: int = 1
    """Minimum letters of a word that counts."""


def job_key(job):
    return StageKey("count", 1, {"count": job.config, "seed": job.seed}, {"corpus": job.artifact("corpus").digest})


def run_job(job, store, tracker):
    config, corpus = CountConfig.model_validate(job.config), job.artifact("corpus")

    def build(folder):
        texts = parquet.read_table(corpus.file("documents.parquet"), columns=["text"])["text"].to_pylist()
        words = sum(len(word) >= config.min_letters for text in texts for word in text.split())
        tracker.log(1, {"count/words": float(words)}, total_steps=1)
        (folder / "count.json").write_text(json.dumps(words))
        return {"words": words}

    return store.produce(job_key(job), build)


COUNT = Stage(
    name="count",
    role="count",
    title="word count",
    kind="count",
    inputs=("corpus",),
    needs_gpu=False,
    needs_torch=False,
    key="word_count:job_key",
    run="word_count:run_job",
)
'''


@pytest.fixture
def word_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a package with the stage, for this process and for worker processes."""
    folder = tmp_path / "packages"
    metadata = folder / "word_count-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "word_count.py").write_text(WORD_COUNT)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: word-count\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{registry.ENTRY_POINTS}]\ncount = word_count:COUNT\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    registry.all_stages.cache_clear()
    yield
    registry.all_stages.cache_clear()
    sys.modules.pop("word_count", None)


@stage_task("count")
def count(adaptation: Adaptation, corpus: ArtifactRef) -> ArtifactRef:
    job = Job(name="count", stage="count", config={"min_letters": 3}, seed=0, inputs={"corpus": corpus})
    return run_stage_group(adaptation, [job])["count"]


@flow(name="count words")
def count_words(config: AdaptConfig) -> ArtifactRef:
    adaptation = track(open_adaptation(config))
    ref = count(adaptation, curate(adaptation))
    wait_until_recorded(adaptation)
    return ref


@pytest.mark.usefixtures("word_count")
def test_new_stage_runs_through_store_worker_flow_mlflow_and_report(
    site: Any, adapted: AdaptConfig, tmp_path: Path
) -> None:
    with temporary_settings({PREFECT_API_URL: site.stack.api}):
        ref = count_words(adapted)
        assert count_words(adapted).reused
    store = ArtifactStore(adapted.runtime.store)
    assert store.find("count", ref.fingerprint) == ref
    assert ref.record["metrics"]["words"] == int(ref.file("count.json").read_text()) > 0

    tracking = open_tracking(Place.of(adapted.runtime))
    (run,) = tracking.find(f"tags.`{STAGE_KEY}` = '{ref.fingerprint}'", 10)
    assert (run.info.run_name, run.info.status) == ("count", "FINISHED")
    assert run.data.metrics["count/words"] == ref.record["metrics"]["words"]
    assert run.data.params["min_letters"] == "3"

    finished = find_run(store, adapted.name)
    extended = RunResult(**{**vars(finished), "refs": {**finished.refs, "count": ref}})
    page = write_report([extended], store, tmp_path / "page.html").read_text()
    assert '<th scope="row">word count</th>' in page  # its cost
