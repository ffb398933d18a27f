"""Evaluations in the format of the stage, with answers chosen by a test."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mixcpt.evaluate.asking.manifest import FILE, Manifest, TaskManifest
from mixcpt.evaluate.summary import FILE as SUMMARY
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.fingerprint import fingerprint

Row = tuple[str, float, float]
"""Item id, value and weight."""


def evaluation(
    folder: Path,
    name: str,
    tasks: dict[str, Sequence[Row]],
    *,
    metric: str = "accuracy",
    per_passage: int = 1,
    form: str = "plain",
    template: str = "",
    split: str = "report",
    chance: float = 0.0,
) -> ArtifactRef:
    """Publish an evaluation, with `per_passage` items per passage, into a store below `folder`."""
    rows: list[dict[str, Any]] = []
    for task, items in tasks.items():
        rows += [_row(task, item, metric, f"p{number // per_passage}", number) for number, item in enumerate(items)]
    for row in rows:
        row["chance"] = chance
    summary = {"form": form, "tasks": [_score(task, items, metric) for task, items in tasks.items()]}
    manifests = {task: _manifest(task, items, form) for task, items in tasks.items()}
    manifest = Manifest(split, template, tasks=manifests, libraries={"lm-eval": "1"})

    def build(directory: Path) -> dict[str, float]:
        pd.DataFrame(rows).to_parquet(directory / "items.parquet")
        (directory / SUMMARY).write_text(json.dumps(summary))
        (directory / FILE).write_text(json.dumps(manifest.to_json()))
        return {}

    return ArtifactStore(folder / "store").produce(StageKey("evaluation", 1, name), build)


def _row(task: str, item: Row, metric: str, passage: str, number: int) -> dict[str, Any]:
    name, value, weight = item
    is_accuracy = metric == "accuracy"
    return {
        "task": task,
        "item_id": name,
        "passage": passage,
        "group": "domain",
        "metric": metric,
        "value": float(value),
        "weight": float(weight),
        "prompt": "",
        "answer": "",
        "gold": "",
        "chance": 0.0,
        "gold_log_prob": -float(number) if is_accuracy else None,
        "gold_bytes": 2 if is_accuracy else None,
        "kl_to_reference": 0.5 * value if is_accuracy else None,
    }


def _score(task: str, items: Sequence[Row], metric: str) -> dict[str, Any]:
    return {
        "task": task,
        "group": "domain",
        "metric": metric,
        "higher_is_better": metric == "accuracy",
        "n": len(items),
        "value": sum(value for _, value, _ in items) / sum(weight for _, _, weight in items),
        "stderr": None,
    }


def _manifest(task: str, items: Sequence[Row], form: str) -> TaskManifest:
    return TaskManifest(
        definition={"task": task},
        items=fingerprint([name for name, _, _ in sorted(items)]),
        num_items=len(items),
        form=form,
        first_token="bos",
        answer_delimiter="",
    )
