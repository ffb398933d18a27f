"""The evaluation stage: run every task on one model, and publish its answers per item and its scores per task."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixcpt.config import EvaluateConfig
from mixcpt.evaluate.asking.definitions import Form, define, prompt_form
from mixcpt.evaluate.asking.items import Item
from mixcpt.evaluate.asking.manifest import FILE as MANIFEST
from mixcpt.evaluate.asking.manifest import LIBRARIES
from mixcpt.evaluate.asking.tasks import TaskItems, open_book, read_tasks
from mixcpt.evaluate.summary import FILE as SUMMARY
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, Metrics, StageKey
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import Tracker

if TYPE_CHECKING:
    from mixcpt.evaluate.asking.harness import Answer

_VERSION = 2
_QUARANTINE_COLUMNS = ("task", "file", "line", "field", "reason")


def evaluate(
    config: EvaluateConfig,
    model: ModelRef,
    corpus: ArtifactRef,
    *,
    form: Form,
    seed: int,
    store: ArtifactStore,
    tracker: Tracker,
    reference: ModelRef | None = None,
    with_documents: bool = False,
) -> ArtifactRef:
    """Run all tasks on a model and publish its answers, or find an equal evaluation in the store.

    The artifact holds `items.parquet` (one row per item), `summary.json` (one entry per task), `manifest.json` (exactly
    how the model was prompted), `quarantine.parquet` (rejected records) and `tasks/` (the lm-eval definitions with
    their data). Its identity depends on the weights, the items, the definitions, the prompt form, the reference and the
    library versions; not on the files that the items come from, and not on the settings of reports.

    Args:
        form: Whether questions are sent as plain text or through the model's chat template.
        seed: Seed that draws the items of tasks with a limit.
        reference: Model whose predictions are compared with the model's, usually the base.
        with_documents: Whether to evaluate the domain's questions only, each after the document that it is about.

    Raises:
        ModelError: If the model does not support the form, or the reference has a different vocabulary.
        DataError: If a task has no items.
    """
    tasks = _read(config, corpus, seed, with_documents)

    def build(folder: Path) -> Metrics:
        from mixcpt.evaluate.asking.harness import ask, manifest

        run_manifest = manifest(model, tasks, form=form, split=config.split)
        answers = ask(
            model, tasks, folder, form=form, batch_size=config.batch_size, tracker=tracker, reference=reference
        )
        _write_items(folder, tasks, answers)
        _write_quarantine(folder, tasks)
        (folder / MANIFEST).write_text(json.dumps(run_manifest.to_json(), indent=2))
        scores = [_score(task, task_answers, form) for task, task_answers in zip(tasks, answers, strict=True)]
        summary = {
            "form": form,
            "split": config.split,
            "manifest": run_manifest.digest,
            "model": {"name": model.name, "digest": model.digest},
            "tasks": scores,
        }
        (folder / SUMMARY).write_text(json.dumps(summary, indent=2))
        return {f"eval/{score['task']}/{score['metric']}": score["value"] for score in scores}

    lineage = {"model": model.to_json(), "corpus": corpus.to_json()}
    return store.produce(_key(config, model, tasks, form=form, reference=reference), build, lineage=lineage)


def evaluation_key(
    config: EvaluateConfig,
    model: ModelRef,
    corpus: ArtifactRef,
    *,
    form: Form,
    seed: int,
    reference: ModelRef | None = None,
    with_documents: bool = False,
) -> StageKey:
    """Return the identity of the evaluation that `evaluate` publishes for the same arguments.

    Reads the items of its tasks, and imports neither torch nor transformers. Raises `DataError` if a task has no items.
    """
    tasks = _read(config, corpus, seed, with_documents)
    return _key(config, model, tasks, form=form, reference=reference)


def _read(config: EvaluateConfig, corpus: ArtifactRef, seed: int, with_documents: bool) -> list[TaskItems]:
    tasks = read_tasks(config, corpus, seed=seed)
    return open_book(tasks, corpus) if with_documents else tasks


def _key(
    config: EvaluateConfig, model: ModelRef, tasks: Sequence[TaskItems], *, form: Form, reference: ModelRef | None
) -> StageKey:
    settings = {
        "form": form,
        "split": config.split,
        "tasks": [
            {
                "group": task.config.group,
                "form": prompt_form(task.config, form),
                "definition": define(task.config, has_choices=task.has_choices),
            }
            for task in tasks
        ],
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    inputs = {"model": model.digest} | {f"items/{task.name}": task.digest for task in tasks}
    if reference:
        inputs["reference"] = reference.digest
    return StageKey("evaluation", _VERSION, settings, inputs)


def _write_items(folder: Path, tasks: Sequence[TaskItems], answers: Sequence[Sequence["Answer"]]) -> None:
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for task, task_answers in zip(tasks, answers, strict=True):
        rows += [_item_row(task, item, answer) for item, answer in zip(task.items, task_answers, strict=True)]
    pd.DataFrame(rows).to_parquet(folder / "items.parquet", index=False)


def _item_row(task: TaskItems, item: Item, answer: "Answer") -> dict[str, Any]:
    return {
        "task": task.name,
        "item_id": item.id,
        "passage": item.cluster,
        "fact": item.fact or item.id,
        "group": task.config.group,
        "metric": task.metric,
        "value": float(answer.value),
        "weight": float(answer.weight),
        "prompt": answer.prompt,
        "answer": answer.answer,
        "gold": item.gold.strip(),
        "chance": item.chance,
        "gold_log_prob": answer.gold.log_prob if answer.gold else None,
        "gold_bytes": answer.gold.num_bytes if answer.gold else None,
        "kl_to_reference": answer.drift,
    }


def _write_quarantine(folder: Path, tasks: Sequence[TaskItems]) -> None:
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for task in tasks:
        rows += [{"task": task.name, **asdict(record)} for record in task.quarantined]
    pd.DataFrame(rows, columns=list(_QUARANTINE_COLUMNS)).to_parquet(folder / "quarantine.parquet", index=False)


def _score(task: TaskItems, answers: Sequence["Answer"], form: Form) -> dict[str, Any]:
    import numpy as np

    from mixcpt.evaluate.statistics.estimates import estimate, number_passages

    values = np.array([answer.value for answer in answers], dtype=float)
    weights = np.array([answer.weight for answer in answers], dtype=float)
    passages = number_passages([item.cluster for item in task.items])
    value, stderr = estimate(values, weights, passages)
    score = {
        "task": task.name,
        "group": task.config.group,
        "metric": task.metric,
        "higher_is_better": task.metric == "accuracy",
        "n": len(answers),
        "passages": int(passages.max()) + 1,
        "value": value,
        "stderr": None if math.isnan(stderr) else stderr,
        "prompt_form": prompt_form(task.config, form),
        "truncated": sum(answer.truncated for answer in answers),
        "quarantined": len(task.quarantined),
        "chance": None if task.metric == "bits_per_byte" else float(np.mean([item.chance for item in task.items])),
        "kl_to_base": _drift(answers),
    }
    normalised = [answer.value_normalised for answer in answers if answer.value_normalised is not None]
    if normalised:
        score["accuracy_normalised"] = float(np.mean(normalised))
    return score


def _drift(answers: Sequence["Answer"]) -> float | None:
    """Return the mean divergence from the reference; None if it was not measured."""
    measured = [answer.drift for answer in answers if answer.drift is not None]
    return sum(measured) / len(measured) if measured else None


def job_key(job: Job) -> StageKey:
    """Return the key of the evaluation of a job; it reads the tasks."""
    return evaluation_key(**_arguments(job))


def run_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `evaluate`."""
    return evaluate(**_arguments(job), store=store, tracker=tracker)


def _arguments(job: Job) -> dict[str, Any]:
    return {
        "config": EvaluateConfig.model_validate(job.config),
        "model": job.model("model"),
        "corpus": job.artifact("corpus"),
        "form": job.options.form,
        "seed": job.seed,
        "reference": job.model("reference") if "reference" in job.inputs else None,
        "with_documents": job.options.with_documents,
    }
