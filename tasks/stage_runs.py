"""What MLflow is told: one run per stage with its inputs, outputs and cost, one logged model per trained model."""

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.utilities.urls import url_for

from mixcpt.evaluate.asking.manifest import FILE as MANIFEST
from mixcpt.evaluate.asking.manifest import Manifest
from mixcpt.evaluate.summary import EvaluationSummary
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import Measurement, Spool
from mixcpt.train.metrics import TrainingMetrics
from tasks.tracking import FLOW_RUN, RUN_KEY, STAGE_KEY, TEMPORARY_SERVER, Tracking, forgiving

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, LoggedModel, Metric

_one_at_a_time = threading.Lock()
"""Stations in threads may share a stage: whoever comes second has to find the first one's run, not open another."""

DIGEST = "mixcpt.digest"
WEIGHTS = "mixcpt.weights"
"""Tags of a logged model and of a registered version: which weights, and where they lie."""
_DIGEST_CHARACTERS = 36
"""MLflow keeps no longer digest of a dataset."""
_MAX_PROFILE_CHARACTERS = 2000
_TASKS_DATASET = "evaluation-tasks"


@forgiving
def begin_parent(
    tracking: Tracking, key: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any], parent: str = ""
) -> str:
    """Returns the run of an adaptation or a comparison; what dead processes left open is closed first."""
    tracking.close_abandoned()
    told = {**tags, **_link_to_prefect(tags)}
    return tracking.open(RUN_KEY, key, name, parent=parent, tags=told, params=params).run_id


def _link_to_prefect(tags: Mapping[str, str]) -> dict[str, str]:
    """Returns the description under which MLflow shows a run: the way to its flow run, where somebody can go it."""
    flow_run = tags.get(FLOW_RUN)
    if not flow_run or os.environ.get(TEMPORARY_SERVER):
        return {}
    address = url_for("flow-run", flow_run)
    return {"mlflow.note.content": f"[Prefect flow run]({address})"} if address else {}


@forgiving
def begin_stage(
    tracking: Tracking, job: Job, key: str, parent: str, tags: Mapping[str, str]
) -> tuple[str, dict[str, int]]:
    """Returns the run of a stage, and the last step that it has of each metric."""
    with _one_at_a_time:
        return _open_stage(tracking, job, key, parent, tags)


@forgiving
def forward(tracking: Tracking, run_id: str, measurements: list[Measurement], last_steps: dict[str, int]) -> bool:
    """Returns True once the measurements are logged."""
    tracking.log_measurements(run_id, measurements, last_steps)
    return True


@forgiving
def record_stage(
    tracking: Tracking,
    job: Job,
    ref: ArtifactRef,
    spool: Spool,
    parent: str,
    tags: Mapping[str, str],
    begun: tuple[str, dict[str, int]] | None = None,
) -> str:
    """Returns the finished run of a stage whose artifact is published; completes or creates it where need be.

    The spools are removed once all of them is logged.

    Args:
        tracking: Where.
        job: The stage.
        ref: Its artifact.
        spool: Its measurements.
        parent: Run of the adaptation.
        tags: Of the run.
        begun: What `begin_stage` said where this process began the stage; else the server is asked.
    """
    with _one_at_a_time:
        finished = "" if begun else tracking.finished_run(STAGE_KEY, ref.fingerprint)
        run_id = finished or _complete(
            tracking, begun or _open_stage(tracking, job, ref.fingerprint, parent, tags), job, ref, spool
        )
    if parent:
        tracking.tag(parent, {f"mixcpt.stage.{job.name}": run_id})
    spool.remove()
    return run_id


def _complete(tracking: Tracking, begun: tuple[str, dict[str, int]], job: Job, ref: ArtifactRef, spool: Spool) -> str:
    """Returns the run of a stage, finished, after logging what its artifact and its spool tell."""
    run_id, last_steps = begun
    dataset_digest = _log_inputs(tracking, run_id, job, ref)
    model = _log_model(tracking, run_id, job, ref) if ref.kind == "model" else None
    measured = [*(spool.read()[0] or _history(ref)), *spool.flow_spool.read()[0]]
    figures = [*_costs(ref), *_scores(tracking, job, ref, dataset_digest)]
    tags = {DIGEST: ref.digest, "mixcpt.artifact": ref.path} | _model_tag(model)
    tracking.log_measurements(run_id, measured, last_steps, figures, tags)
    tracking.close(run_id, "FINISHED")
    return run_id


@forgiving
def close_run(tracking: Tracking, run_id: str, status: str) -> None:
    """Ends a run as FINISHED, FAILED or KILLED."""
    tracking.close(run_id, status)


@forgiving
def close_flow_run(tracking: Tracking, flow_run_id: str, status: str) -> None:
    """Ends every run that a flow run has left open."""
    tracking.close_flow_run(flow_run_id, status)


def find_model(tracking: Tracking, digest: str) -> "LoggedModel | None":
    """Returns the logged model with these weights, if there is one; the server is asked until it has one."""
    if digest not in tracking.models:
        found = tracking.client.search_logged_models(
            [tracking.experiment_id], filter_string=f"tags.`{DIGEST}` = '{digest}'"
        )
        if not found:
            return None
        tracking.models[digest] = found[0]
    return tracking.models[digest]


def _open_stage(
    tracking: Tracking, job: Job, key: str, parent: str, tags: Mapping[str, str]
) -> tuple[str, dict[str, int]]:
    params = {**job.config, "seed": job.seed, **job.options.to_json()}
    if job.stage == "evaluate":
        params["form"] = job.options.form
    tags = {**tags, "mixcpt.stage": job.stage}
    run = tracking.open(STAGE_KEY, key, job.name, parent=parent, tags=tags, params=params)
    return run.run_id, tracking.last_steps(run)


def log_data_of_run(
    tracking: Tracking, run_id: str, training: Iterable[ArtifactRef], evaluations: Iterable[ArtifactRef]
) -> None:
    """Links an adaptation to the data that made its model and to how it was asked: from a registered version one
    click leads to its run, and from there to these."""
    datasets = [*(_dataset(ref, "training") for ref in training), *(_tasks_dataset(ref) for ref in evaluations)]
    tracking.client.log_inputs(run_id, datasets)


def _log_inputs(tracking: Tracking, run_id: str, job: Job, ref: ArtifactRef) -> str:
    """Returns the digest of the data that the stage worked on, after linking it, and the models it started from."""
    from mlflow.entities import LoggedModelInput

    context = "evaluation" if job.stage == "evaluate" else "training"
    datasets = [_dataset(value, context) for value in job.inputs.values() if isinstance(value, ArtifactRef)]
    if job.stage == "evaluate":
        datasets.append(_tasks_dataset(ref))
        tracking.client.log_artifact(run_id, str(ref.file(MANIFEST)))
    digests = [value.digest for value in job.inputs.values() if isinstance(value, ModelRef)]
    models = [model for digest in digests if (model := find_model(tracking, digest))]
    tracking.client.log_inputs(run_id, datasets, [LoggedModelInput(model.model_id) for model in models])
    return datasets[-1].dataset.digest if datasets else ""


def _dataset(ref: ArtifactRef, context: str) -> "DatasetInput":
    profile = json.dumps(_counts(ref.record["metrics"]))
    return _dataset_input(ref.kind, ref.digest, str(ref.directory), profile, context)


def _counts(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of an artifact's metrics, those of each pool too: what a reader of its page asks first."""
    pools = metrics.get("pools", {}).items()
    found = {f"{pool} {name}": value for pool, counts in pools for name, value in counts.items()}
    return {name: value for name, value in {**metrics, **found}.items() if isinstance(value, int | float) and value}


def _tasks_dataset(ref: ArtifactRef) -> "DatasetInput":
    """Returns how the model was asked, as a data set: results with the same digest may be compared."""
    manifest = Manifest.of(ref)
    profile = json.dumps({"split": manifest.split, "tasks": {n: t.num_items for n, t in manifest.tasks.items()}})
    return _dataset_input(_TASKS_DATASET, manifest.digest, str(ref.directory), profile, "evaluation")


def _dataset_input(name: str, digest: str, source: str, profile: str, context: str) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source_json = json.dumps({"uri": source})
    cut = profile if len(profile) <= _MAX_PROFILE_CHARACTERS else "{}"
    dataset = Dataset(name, digest[:_DIGEST_CHARACTERS], "local", source_json, schema=None, profile=cut)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


def _log_model(tracking: Tracking, run_id: str, job: Job, ref: ArtifactRef) -> "LoggedModel":
    """Returns the logged model of trained weights; they stay where they are, it holds their address and digest."""
    from mlflow.entities import LoggedModelOutput

    if found := find_model(tracking, ref.digest):
        return found
    tags = {DIGEST: ref.digest, WEIGHTS: ref.file("model").as_uri(), "mixcpt.stage": job.stage}
    model = tracking.client.create_logged_model(tracking.experiment_id, name=job.name, source_run_id=run_id, tags=tags)
    step = TrainingMetrics.of(ref).steps or 0
    tracking.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    tracking.models[ref.digest] = tracking.client.finalize_logged_model(model.model_id, "READY")
    return tracking.models[ref.digest]


def _model_tag(model: "LoggedModel | None") -> dict[str, str]:
    return {"mixcpt.model_id": model.model_id} if model else {}


def _costs(ref: ArtifactRef) -> "Iterator[Metric]":
    """Yields what the stage cost: seconds, and the tokens, FLOPs and bytes that it counted."""
    from mlflow.entities import Metric

    record = ref.record
    now = int(time.time() * 1000)
    counted = {} if ref.kind == "evaluation" else record["metrics"]
    for name, value in {"seconds": record["seconds"], **counted}.items():
        if isinstance(value, int | float):
            yield Metric(f"stage/{name}", float(value), now, 0)


def _scores(tracking: Tracking, job: Job, ref: ArtifactRef, dataset_digest: str) -> "Iterator[Metric]":
    """Yields what an evaluation measured, linked to the model and to the tasks."""
    from mlflow.entities import Metric

    if job.stage != "evaluate":
        return
    model = find_model(tracking, job.model("model").digest)
    model_id = model.model_id if model else None
    now = int(time.time() * 1000)
    for score in EvaluationSummary.of(ref).tasks:
        for name, value in ((score.metric, score.value), (f"{score.metric}_stderr", score.stderr)):
            if value is not None:
                key = f"eval/{score.task}/{name}"
                yield Metric(key, value, now, 0, model_id, _TASKS_DATASET, dataset_digest)


def _history(ref: ArtifactRef) -> Iterator[Measurement]:
    """Yields the measurements that a training kept beside its weights; the spool is gone where MLflow was replaced."""
    path: Path = ref.file("history.json")
    if path.is_file():
        for line in json.loads(path.read_text()):
            metrics = {key: value for key, value in line.items() if key != "step"}
            yield Measurement(line["step"], metrics, path.stat().st_mtime)
