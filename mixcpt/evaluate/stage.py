"""The evaluation stage: one model, all tasks, in; answers per item and scores per task, out."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixcpt.config import EvaluateConfig
from mixcpt.evaluate.asking.definitions import Form, define, prompt_form
from mixcpt.evaluate.asking.manifest import FILE as MANIFEST
from mixcpt.evaluate.asking.manifest import LIBRARIES, Manifest
from mixcpt.evaluate.asking.open_book import open_book
from mixcpt.evaluate.asking.tasks import TaskItems, read_tasks
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
    """Returns the answers of a model to all tasks; a model that was asked the same before is not asked again.

    The artifact holds `items.parquet` (one row an item), `summary.json` (one entry a task), `manifest.json` (how
    exactly it was asked), `quarantine.parquet` (records that could not be asked) and `tasks/` (the lm-eval definitions
    with their data). What decides its identity are the weights, the items themselves, the definitions, the prompt form,
    the reference and the libraries; not where the items came from, nor how reports are made of the answers.

    Args:
        config: The tasks.
        model: Who is asked.
        corpus: Holds the held-out documents.
        form: Whether questions are put as plain text or through the model's chat template.
        seed: Draws the items of tasks with a limit.
        store: Where the answers are kept.
        tracker: Told how far it is.
        reference: Whose predictions the model's are compared with, most often the base's.
        with_documents: Whether to ask the domain's questions alone, each behind the document that it is about.

    Raises:
        ModelError: If the model cannot be asked in this form, or the reference has another vocabulary.
    """
    tasks = read_tasks(config, corpus, seed=seed)
    if with_documents:
        tasks = open_book(tasks, corpus)

    def build(folder: Path) -> Metrics:
        from mixcpt.evaluate.asking.harness import ask, manifest

        how = manifest(model, tasks, form=form, split=config.split)
        answers = ask(
            model, tasks, folder, form=form, batch_size=config.batch_size, tracker=tracker, reference=reference
        )
        _write_items(folder, tasks, answers)
        _write_quarantine(folder, tasks)
        (folder / MANIFEST).write_text(json.dumps(how.to_json(), indent=2))
        summary = _summary(model, form, how, tasks, answers)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2))
        return {f"eval/{task['task']}/{task['metric']}": task["value"] for task in summary["tasks"]}

    return store.produce(
        _key(config, model, tasks, form, reference),
        build,
        lineage={"model": model.to_json(), "corpus": corpus.to_json()},
    )


def _key(
    config: EvaluateConfig, model: ModelRef, tasks: Sequence[TaskItems], form: Form, reference: ModelRef | None
) -> StageKey:
    settings = {
        "form": form,
        "split": config.split,
        "tasks": [
            {"group": asked.task.group, "form": prompt_form(asked.task, form), "definition": define(asked.task)}
            for asked in tasks
        ],
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    inputs = {"model": model.digest} | {f"items/{asked.task.name}": asked.digest for asked in tasks}
    return StageKey("evaluation", _VERSION, settings, inputs | ({"reference": reference.digest} if reference else {}))


def _write_items(folder: Path, tasks: Sequence[TaskItems], answers: Sequence[Sequence["Answer"]]) -> None:
    import pandas as pd

    rows = [
        {
            "task": asked.task.name,
            "item_id": item.id,
            "passage": item.cluster,
            "fact": item.fact or item.id,
            "group": asked.task.group,
            "metric": asked.metric,
            "value": float(answer.value),
            "weight": float(answer.weight),
            "prompt": answer.prompt,
            "answer": answer.answer,
            "gold": item.gold,
            "chance": 1 / len(item.choices) if item.choices else 0.0,
            "gold_log_prob": answer.gold.log_prob if answer.gold else None,
            "gold_bytes": answer.gold.num_bytes if answer.gold else None,
            "kl_to_reference": answer.gold.kl_to_reference if answer.gold else None,
        }
        for asked, given in zip(tasks, answers, strict=True)
        for item, answer in zip(asked.items, given, strict=True)
    ]
    pd.DataFrame(rows).to_parquet(folder / "items.parquet", index=False)


def _write_quarantine(folder: Path, tasks: Sequence[TaskItems]) -> None:
    import pandas as pd

    rows = [{"task": asked.task.name, **asdict(bad)} for asked in tasks for bad in asked.quarantined]
    pd.DataFrame(rows, columns=list(_QUARANTINE_COLUMNS)).to_parquet(folder / "quarantine.parquet", index=False)


def _summary(
    model: ModelRef,
    form: Form,
    how: Manifest,
    tasks: Sequence[TaskItems],
    answers: Sequence[Sequence["Answer"]],
) -> dict[str, Any]:
    return {
        "form": form,
        "split": how.split,
        "manifest": how.digest,
        "model": {"name": model.name, "digest": model.digest},
        "tasks": [_score(asked, given, form) for asked, given in zip(tasks, answers, strict=True)],
    }


def _score(asked: TaskItems, answers: Sequence["Answer"], form: Form) -> dict[str, Any]:
    import numpy as np

    from mixcpt.evaluate.statistics.estimates import estimate, number_passages

    values = np.array([answer.value for answer in answers], dtype=float)
    weights = np.array([answer.weight for answer in answers], dtype=float)
    passages = number_passages([item.cluster for item in asked.items])
    value, stderr = estimate(values, weights, passages)
    normalised = [answer.value_normalised for answer in answers if answer.value_normalised is not None]
    return {
        "task": asked.task.name,
        "group": asked.task.group,
        "metric": asked.metric,
        "higher_is_better": asked.metric == "accuracy",
        "n": len(answers),
        "passages": int(passages.max()) + 1,
        "value": value,
        "stderr": None if math.isnan(stderr) else stderr,
        "prompt_form": prompt_form(asked.task, form),
        "truncated": sum(answer.truncated for answer in answers),
        "quarantined": len(asked.quarantined),
    } | ({"accuracy_normalised": float(np.mean(normalised))} if normalised else {})
