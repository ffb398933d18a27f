"""Evaluations as the stage writes them, of answers that a test plants."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mixcpt.evaluate.asking.manifest import FILE, Manifest, TaskManifest
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.fingerprint import fingerprint

Row = tuple[str, float, float]
"""Item, value, weight."""


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
) -> ArtifactRef:
    is_accuracy = metric == "accuracy"
    rows = [
        {"task": task, "item_id": item, "passage": f"p{number // per_passage}", "group": "domain", "metric": metric}
        | {"value": float(value), "weight": float(weight), "prompt": "", "answer": "", "gold": "", "chance": 0.0}
        | dict.fromkeys(("gold_log_prob", "gold_bytes", "kl_to_reference"))
        | ({"gold_log_prob": -float(number), "gold_bytes": 2, "kl_to_reference": 0.5 * value} if is_accuracy else {})
        for task, items in tasks.items()
        for number, (item, value, weight) in enumerate(items)
    ]
    summary = {"tasks": [{"task": task, "higher_is_better": is_accuracy} for task in tasks]}
    asked = {
        task: TaskManifest(
            definition={"task": task},
            items=fingerprint([item for item, _, _ in sorted(items)]),
            num_items=len(items),
            form=form,
            first_token="bos",
            answer_delimiter="",
        )
        for task, items in tasks.items()
    }
    manifest = Manifest(split, template, asked, {"lm-eval": "1"})

    def build(directory: Path) -> dict[str, float]:
        pd.DataFrame(rows).to_parquet(directory / "items.parquet")
        (directory / "summary.json").write_text(json.dumps(summary))
        (directory / FILE).write_text(json.dumps(manifest.to_json()))
        return {}

    return ArtifactStore(folder / "store").produce(StageKey("evaluation", 1, name), build)
