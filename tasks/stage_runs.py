"""Records stages in MLflow: one run per stage with inputs, outputs and cost, one logged model per trained model."""

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from mixcpt.evaluate.asking.manifest import FILE as MANIFEST
from mixcpt.evaluate.asking.manifest import Manifest
from mixcpt.evaluate.summary import EvaluationSummary
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import Measurement, Spool
from mixcpt.train.metrics import TrainingMetrics
from tasks.tracking import (
    FLOW_RUN,
    NOTE,
    PREFECT,
    ROOT_FLOW_RUN,
    RUN_KEY,
    STAGE_KEY,
    TEMPORARY_SERVER,
    Tracking,
    forgiving,
)

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, LoggedModel, Metric

opening = threading.Lock()
"""Lock for opening runs, because stage groups in threads may share a stage and must then share its run."""
DIGEST = "mixcpt.digest"
WEIGHTS = "mixcpt.weights"
"""Tags of a logged model and of a registered version, with the digest and the address of the weights."""
_DIGEST_CHARACTERS = 36
"""Maximum length of a dataset's digest in MLflow."""
_MAX_PROFILE_CHARACTERS = 2000
_TASKS_DATASET = "evaluation-tasks"


class StageRun(NamedTuple):
    """The open run of a stage."""

    run_id: str
    last_steps: dict[str, int]
    """Last logged step by metric."""


def flow_run_tags() -> dict[str, str]:
    """Return the tags that link a run to the present flow run."""
    root = str(flow_run.root_flow_run_id or flow_run.id or "")
    return {FLOW_RUN: str(flow_run.id or ""), ROOT_FLOW_RUN: root}


@forgiving
def begin_parent(
    tracking: Tracking, key: str, name: str, *, tags: Mapping[str, str], params: Mapping[str, Any], parent: str = ""
) -> str:
    """Close the runs of dead processes, open the run of an adaptation or a comparison, and return its id."""
    tracking.close_abandoned()
    tags = {**tags, **_link_to_prefect(tags)}
    return tracking.open(RUN_KEY, key, name, parent=parent, tags=tags, params=params).run_id


def _link_to_prefect(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the address of a run's flow run as a tag and as its description; empty if no server shows it."""
    address = prefect_address(tags.get(FLOW_RUN, ""))
    return {PREFECT: address, NOTE: f"[Prefect flow run]({address})"} if address else {}


def prefect_address(flow_run_id: str) -> str:
    """Return the address of the page of a flow run; empty if no server shows it."""
    if not flow_run_id or os.environ.get(TEMPORARY_SERVER):
        return ""
    return url_for("flow-run", flow_run_id) or ""


@forgiving
def begin_stage(tracking: Tracking, job: Job, key: str, *, parent: str, tags: Mapping[str, str]) -> StageRun:
    """Open the run of a stage and return it."""
    with opening:
        return _open_stage(tracking, job, key, parent=parent, tags=tags)


@forgiving
def forward(tracking: Tracking, run_id: str, measurements: list[Measurement], last_steps: dict[str, int]) -> bool:
    """Log measurements and return True; None if MLflow is unreachable."""
    tracking.log_measurements(run_id, measurements, last_steps)
    return True


@forgiving
def record_stage(
    tracking: Tracking,
    job: Job,
    ref: ArtifactRef,
    spool: Spool,
    *,
    parent: str,
    tags: Mapping[str, str],
    begun: StageRun | None = None,
) -> str:
    """Finish the run of a stage whose artifact is published, remove its spools, and return the id of the run.

    A run that is finished already stays as it is; a missing one is created. `parent` is the run of the adaptation,
    empty if there is none; `begun` is the run that this process opened, without which it is looked up in MLflow.
    """
    with opening:
        run_id = "" if begun else tracking.finished_run(STAGE_KEY, ref.fingerprint)
        if not run_id:
            run = begun or _open_stage(tracking, job, ref.fingerprint, parent=parent, tags=tags)
            _complete(tracking, run, job, ref=ref, spool=spool)
            run_id = run.run_id
    if parent:
        tracking.tag(parent, {f"mixcpt.stage.{job.name}": run_id})
    spool.remove()
    return run_id


def _complete(tracking: Tracking, run: StageRun, job: Job, *, ref: ArtifactRef, spool: Spool) -> None:
    """Log the inputs, model, measurements and figures of a stage, and finish its run."""
    run_id, last_steps = run
    dataset_digest = _log_inputs(tracking, run_id, job, ref=ref)
    model = _log_model(tracking, run_id, job, ref=ref) if ref.kind == "model" else None
    measured = [*(spool.read()[0] or _history(ref)), *spool.flow_spool.read()[0]]
    figures = [*_costs(ref), *_scores(tracking, job, ref, dataset_digest=dataset_digest)]
    tags = {DIGEST: ref.digest, "mixcpt.artifact": ref.path}
    if model:
        tags["mixcpt.model_id"] = model.model_id
    tracking.log_measurements(run_id, measured, last_steps, figures=figures, tags=tags)
    tracking.close(run_id, "FINISHED")


@forgiving
def close_run(tracking: Tracking, run_id: str, status: str) -> None:
    """End a run as FINISHED, FAILED or KILLED."""
    tracking.close(run_id, status)


@forgiving
def close_flow_run(tracking: Tracking, flow_run_id: str, status: str) -> None:
    """End all open runs of a flow run."""
    for tag in (FLOW_RUN, ROOT_FLOW_RUN):
        for run in tracking.find(f"tags.`{tag}` = '{flow_run_id}' and attributes.status = 'RUNNING'", 1000):
            tracking.close(run.info.run_id, status)


def find_model(tracking: Tracking, digest: str) -> "LoggedModel | None":
    """Return the logged model with these weights; None if there is none."""
    if digest not in tracking.models:
        has_digest = f"tags.`{DIGEST}` = '{digest}'"
        models = tracking.client.search_logged_models([tracking.experiment_id], filter_string=has_digest)
        if not models:
            return None
        tracking.models[digest] = models[0]
    return tracking.models[digest]


def _open_stage(tracking: Tracking, job: Job, key: str, *, parent: str, tags: Mapping[str, str]) -> StageRun:
    params = {**job.config, "seed": job.seed, **job.options.to_json()}
    if job.stage == "evaluate":
        params["form"] = job.options.form
    tags = {**tags, "mixcpt.stage": job.stage}
    run = tracking.open(STAGE_KEY, key, job.name, parent=parent, tags=tags, params=params)
    return StageRun(run.run_id, tracking.last_steps(run))


def log_data_of_run(
    tracking: Tracking, run_id: str, training: Iterable[ArtifactRef], *, evaluations: Iterable[ArtifactRef]
) -> None:
    """Link the run of an adaptation to its training data and evaluation tasks, as datasets.

    MLflow shows them on the page of the run, which the page of a registered version links to.
    """
    datasets = [*(_dataset(ref, "training") for ref in training), *(_tasks_dataset(ref) for ref in evaluations)]
    tracking.client.log_inputs(run_id, datasets)


def _log_inputs(tracking: Tracking, run_id: str, job: Job, *, ref: ArtifactRef) -> str:
    """Link the run of a stage to its data and models, and return the digest of the data; empty without data."""
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
    return _dataset_input(ref.kind, ref.digest, str(ref.directory), profile=profile, context=context)


def _counts(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers other than 0 of an artifact's metrics, including the numbers of its pools."""
    numbers = dict(metrics)
    for pool, counts in metrics.get("pools", {}).items():
        numbers |= {f"{pool} {name}": value for name, value in counts.items()}
    return {name: value for name, value in numbers.items() if isinstance(value, int | float) and value}


def _tasks_dataset(ref: ArtifactRef) -> "DatasetInput":
    """Return the tasks of an evaluation as a dataset; results with equal digests are comparable."""
    manifest = Manifest.of(ref)
    num_items = {name: task.num_items for name, task in manifest.tasks.items()}
    profile = json.dumps({"split": manifest.split, "tasks": num_items})
    return _dataset_input(_TASKS_DATASET, manifest.digest, str(ref.directory), profile=profile, context="evaluation")


def _dataset_input(name: str, digest: str, source: str, *, profile: str, context: str) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source_json = json.dumps({"uri": source})
    cut = profile if len(profile) <= _MAX_PROFILE_CHARACTERS else "{}"
    dataset = Dataset(name, digest[:_DIGEST_CHARACTERS], "local", source_json, schema=None, profile=cut)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


def _log_model(tracking: Tracking, run_id: str, job: Job, *, ref: ArtifactRef) -> "LoggedModel":
    """Log the address and digest of trained weights, which stay in the store, as a model and return it."""
    from mlflow.entities import LoggedModelOutput

    if known := find_model(tracking, ref.digest):
        return known
    tags = {DIGEST: ref.digest, WEIGHTS: ref.file("model").as_uri(), "mixcpt.stage": job.stage}
    model = tracking.client.create_logged_model(tracking.experiment_id, name=job.name, source_run_id=run_id, tags=tags)
    step = TrainingMetrics.of(ref).steps or 0
    tracking.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    tracking.models[ref.digest] = tracking.client.finalize_logged_model(model.model_id, "READY")
    return tracking.models[ref.digest]


def _costs(ref: ArtifactRef) -> "Iterator[Metric]":
    """Yield the cost of a stage: seconds, and the counted tokens, FLOPs and bytes."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    counted = {} if ref.kind == "evaluation" else ref.record["metrics"]
    for name, value in {"seconds": ref.record["seconds"], **counted}.items():
        if isinstance(value, int | float):
            yield Metric(f"stage/{name}", float(value), now, 0)


def _scores(tracking: Tracking, job: Job, ref: ArtifactRef, *, dataset_digest: str) -> "Iterator[Metric]":
    """Yield the scores of an evaluation, linked to the model and to the tasks; none for other stages."""
    from mlflow.entities import Metric

    if job.stage != "evaluate":
        return
    model, now = find_model(tracking, job.model("model").digest), int(time.time() * 1000)
    model_id = model.model_id if model else None
    for score in EvaluationSummary.of(ref).tasks:
        for name, value in ((score.metric, score.value), (f"{score.metric}_stderr", score.stderr)):
            if value is not None:
                key = f"eval/{score.task}/{name}"
                yield Metric(key, value, now, 0, model_id, _TASKS_DATASET, dataset_digest)


def _history(ref: ArtifactRef) -> Iterator[Measurement]:
    """Yield the measurements stored with the weights of a training, for a new MLflow server without its spool."""
    path: Path = ref.file("history.json")
    if path.is_file():
        for line in json.loads(path.read_text()):
            metrics = {key: value for key, value in line.items() if key != "step"}
            yield Measurement(line["step"], metrics, path.stat().st_mtime)
