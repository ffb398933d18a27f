"""The smoke test: before a model is served, repeat a few questions of its evaluation and compare the answers."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mixcpt.config import EvaluateConfig
from mixcpt.errors import ModelError
from mixcpt.evaluate.asking.definitions import Form
from mixcpt.evaluate.stage import evaluate
from mixcpt.evaluate.summary import read_answers
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, Metrics, StageKey
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import NullTracker, Tracker

_VERSION = 1
_MAX_TASKS = 4
_MAX_ITEMS = 8
_SAME_FRACTION = 0.9
"""Minimum fraction of equal answers; near-ties can change with the device or the batch."""
_MAX_RELATIVE_CHANGE = 0.01
"""Maximum relative change of the bits of a text."""


@dataclass(frozen=True)
class Smoke:
    """One smoke test: the recorded evaluation and its settings."""

    config: EvaluateConfig
    recorded: ArtifactRef
    form: Form
    attempt: str
    """Unique name of this test, so that an earlier result in the store is never reused."""


def smoke_test(smoke: Smoke, model: ModelRef, corpus: ArtifactRef, *, seed: int, store: ArtifactStore) -> ArtifactRef:
    """Repeat a few questions of the recorded evaluation and publish the passed test.

    Raises:
        ModelError: If the model cannot be loaded, or its answers differ from the recorded ones.
    """

    def build(folder: Path) -> Metrics:
        config = _shortened(smoke.config)
        with TemporaryDirectory() as root:
            temporary = ArtifactStore(root)
            evaluation = evaluate(
                config, model, corpus, form=smoke.form, seed=seed, store=temporary, tracker=NullTracker()
            )
            return _require_same(evaluation, smoke.recorded)

    return store.produce(smoke_key(smoke, model), build)


def smoke_key(smoke: Smoke, model: ModelRef) -> StageKey:
    """Return the identity of a smoke test. Reads no file, and imports neither torch nor transformers."""
    inputs = {"model": model.digest, "evaluation": smoke.recorded.digest}
    return StageKey("smoke", _VERSION, {"attempt": smoke.attempt}, inputs)


def _shortened(config: EvaluateConfig) -> EvaluateConfig:
    headlines = (config.headline_domain, config.headline_general)
    headlines_first = sorted(config.tasks, key=lambda task: task.name not in headlines)
    limits = [(task, min(task.limit or _MAX_ITEMS, _MAX_ITEMS)) for task in headlines_first[:_MAX_TASKS]]
    tasks = tuple(task.model_copy(update={"limit": limit}) for task, limit in limits)
    return config.model_copy(update={"tasks": tasks})


def _require_same(evaluation: ArtifactRef, recorded: ArtifactRef) -> Metrics:
    now, before = (read_answers(ref).set_index(["task", "item_id"]) for ref in (evaluation, recorded))
    before = before.loc[before.index.intersection(now.index)]
    if before.empty:
        raise ModelError("no question of the recorded evaluation can be repeated", "evaluate the model again")
    now = now.loc[before.index]
    is_close = (now["value"] - before["value"]).abs() <= _MAX_RELATIVE_CHANGE * before["value"].abs()
    same = (now["value"] == before["value"]).where(before["metric"] == "accuracy", is_close)
    if same.mean() < _SAME_FRACTION:
        task, item = before.index[~same.to_numpy()][0]
        raise ModelError(
            f"only {same.sum()} of {len(same)} answers equal the recorded ones; first difference: {task}, {item}",
            "the files, the libraries or the device changed after the evaluation: evaluate the model again",
        )
    return {"questions": len(same), "same": int(same.sum())}


def job_key(job: Job) -> StageKey:
    """Return the key of the smoke test of a job."""
    return smoke_key(_smoke(job), job.model("model"))


def run_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `smoke`."""
    return smoke_test(_smoke(job), job.model("model"), job.artifact("corpus"), seed=job.seed, store=store)


def _smoke(job: Job) -> Smoke:
    config = EvaluateConfig.model_validate(job.config)
    return Smoke(config, job.artifact("recorded"), job.options.form, job.options.attempt)
