"""Small artifacts of a whole run, published to the store like real artifacts, for the tests of the report."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mixcpt.config import AdaptConfig
from mixcpt.evaluate.asking.manifest import Manifest, TaskManifest
from mixcpt.records.run import RunResult, TrackingRef, load_run, save_run
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef

BASE = {"name": "tiny-base", "path": "models/tiny-base", "digest": "b" * 64}
GROUPS = {"domain_questions": "domain", "general_questions_unasked": "general", "domain_bits": "domain"}
COLUMNS = {
    "documents": ["doc_id", "source", "pool", "title", "text"],
    "heldout": ["doc_id", "source", "pool", "title", "text"],
    "instructions": ["id", "source", "prompt", "response"],
    "preferences": ["id", "source", "prompt", "chosen", "rejected"],
    "removed": ["pool", "source", "id", "step", "reason", "text"],
    "quarantine": ["source", "file", "line", "field", "reason", "raw"],
}


def publish(
    store: ArtifactStore,
    kind: str,
    files: Mapping[str, Any],
    *,
    metrics: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    settings: Any = None,
    lineage: Mapping[str, Any] | None = None,
) -> ArtifactRef:
    """Publish an artifact with these files, data frames as parquet and other content as JSON; return its reference."""

    def build(folder: Path) -> Mapping[str, Any]:
        for name, content in files.items():
            if isinstance(content, pd.DataFrame):
                content.to_parquet(folder / name)
            else:
                (folder / name).write_text(json.dumps(content))
        return metrics or {}

    identity = {"settings": settings, "content": {name: str(content) for name, content in files.items()}}
    return store.produce(StageKey(kind, 1, identity, inputs or {}), build, lineage=lineage)


def accuracy_items(
    task: str, right: Sequence[int], answers: Sequence[str] | None = None, chance: float = 0.0
) -> list[dict[str, Any]]:
    """Return one item per entry of `right`; item i has the prompt `Question i` and the correct answer `gold i`."""
    return [
        {
            "task": task,
            "item_id": f"{task}-{index}",
            "group": GROUPS.get(task, "general"),
            "metric": "accuracy",
            "passage": f"{task}-{index}",
            "fact": f"{task}-{index}",
            "value": float(hit),
            "weight": 1.0,
            "prompt": f"Question {index} of {task}?\n",
            "answer": answers[index] if answers else (f"gold {index}" if hit else f"wrong {index}"),
            "gold": f"gold {index}",
            "chance": chance,
            "gold_log_prob": -0.1 if hit else -4.0 - index % 3,
            "gold_bytes": 6,
            "kl_to_reference": 0.02 * (1 + index % 5),
        }
        for index, hit in enumerate(right)
    ]


def bits_items(bits: Sequence[float], sizes: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "task": "domain_bits",
            "item_id": f"doc-{index}",
            "passage": f"doc-{index}",
            "fact": f"doc-{index}",
            "group": "domain",
            "metric": "bits_per_byte",
            "value": float(value),
            "weight": float(num_bytes),
            "prompt": f"Held-out text {index}",
            "answer": "",
            "gold": "",
            "chance": 0.0,
            "gold_log_prob": None,
            "gold_bytes": None,
            "kl_to_reference": None,
        }
        for index, (value, num_bytes) in enumerate(zip(bits, sizes, strict=True))
    ]


def evaluation(
    store: ArtifactStore, form: str, model: Mapping[str, str], items: Sequence[Mapping[str, Any]]
) -> ArtifactRef:
    tasks = []
    for task in dict.fromkeys(item["task"] for item in items):
        rows = [item for item in items if item["task"] == task]
        values, weights = [row["value"] for row in rows], [row["weight"] for row in rows]
        mean = sum(values) / sum(weights)
        accuracy = rows[0]["metric"] == "accuracy"
        tasks.append(
            {
                "task": task,
                "group": rows[0]["group"],
                "metric": rows[0]["metric"],
                "higher_is_better": accuracy,
                "n": len(rows),
                "truncated": 0,
                "value": mean,
                "stderr": math.sqrt(mean * (1 - mean) / len(rows)) if accuracy else 0.01,
            }
        )
    summary = {"form": form, "model": {"name": model["name"], "digest": model["digest"]}, "tasks": tasks}
    manifests = {
        task["task"]: TaskManifest(
            definition={}, items=str(task["n"]), num_items=task["n"], form=form, first_token="bos", answer_delimiter=""
        )
        for task in tasks
    }
    manifest = Manifest("report", "template" if form == "chat" else "", manifests, {}).to_json()
    return publish(
        store,
        "evaluation",
        {"items.parquet": pd.DataFrame(items), "summary.json": summary, "manifest.json": manifest},
        inputs={"model": model["digest"]},
    )


def corpus(store: ArtifactStore, *, source: str = "anatomy", text: str = "", empty: bool = False) -> ArtifactRef:
    """Publish a corpus with one domain source and return its reference; `text` replaces its removed records."""
    frames = {f"{name}.parquet": pd.DataFrame(columns=columns, dtype=str) for name, columns in COLUMNS.items()}
    removed, counted = [], []
    quarantined = 0
    if not empty:
        removed = [
            {"pool": "domain", "source": source, "id": f"d{i}", "step": "deduplicate",
             "reason": "exact duplicate of d1", "text": text or f"The heart has four chambers, copy {i}."}
            for i in range(7)
        ]  # fmt: skip
        removed.append(
            {"pool": "domain", "source": source, "id": "s1", "step": "minimum_length", "reason": "9 of 20 characters",
             "text": text or "Too short"}
        )  # fmt: skip
        frames["removed.parquet"] = pd.DataFrame(removed)
        frames["quarantine.parquet"] = pd.DataFrame(
            [{"source": source, "file": "anatomy.jsonl", "line": 12, "field": "text", "reason": "no JSON",
              "raw": text or '{"text": "cut of'}]
        )  # fmt: skip
        quarantined = 1
        counted = [
            {"step": "deduplicate", "reason": "exact duplicate", "source": source, "records": 7, "bytes": 259},
            {"step": "minimum_length", "reason": "too short", "source": source, "records": 1, "bytes": 9},
        ]
    report = {
        "pools": {
            "domain": {"records": 1840, "bytes": 912_345, "heldout": 97},
            "general": {"records": 0, "bytes": 0, "heldout": 0},
            "instructions": {"records": 4200, "bytes": 650_000, "heldout": 0},
        },
        "sources": {
            source: {"pool": "domain", "read": 1946, "quarantined": quarantined, "removed": len(removed), "heldout": 97,
                     "kept": 1840, "bytes": 912_345,
                     "files": [{"name": "anatomy.jsonl", "sha256": "a1" * 32, "bytes": 1_020_000}]},
            "t0": {"pool": "instructions", "read": 4200, "quarantined": 0, "removed": 0, "heldout": 0, "kept": 4200,
                   "bytes": 650_000, "files": []},
        },
        "removed": counted,
    }  # fmt: skip
    contents = dict.fromkeys(report["sources"], "c" * 64)
    places = {"sources": {name: [] for name in report["sources"]}}
    return publish(store, "corpus", {**frames, "report.json": report}, inputs=contents, lineage=places)


def mixture(store: ArtifactStore, inputs: ArtifactRef, source: str, total_tokens: int) -> ArtifactRef:
    accounting = {
        "row_tokens": 256,
        "num_rows": total_tokens // 256,
        "total_tokens": total_tokens,
        "scored_tokens": total_tokens - 5000,
        "padding_tokens": 321,
        "fill_fraction": 0.9987,
        "sources": [
            {"id": 0, "name": source, "pool": "domain", "documents": 1840, "unique_tokens": 200_000,
             "tokens": total_tokens // 2, "share_fraction": 0.5, "passes": total_tokens / 400_000,
             "split_documents": 3},
            {"id": 1, "name": "t0", "pool": "instructions", "documents": 4200, "unique_tokens": 150_000,
             "tokens": total_tokens // 2, "share_fraction": 0.5, "passes": total_tokens / 300_000,
             "split_documents": 0},
        ],
        "pools": {
            "domain": {"tokens": total_tokens // 2, "target_tokens": total_tokens // 2},
            "instructions": {"tokens": total_tokens // 2, "target_tokens": total_tokens // 2},
        },
    }  # fmt: skip
    files = {"accounting.json": accounting}
    return publish(store, "mixture", files, metrics={"total_tokens": total_tokens}, inputs={"corpus": inputs.digest})


def model(
    store: ArtifactStore, stage: str, inputs: Mapping[str, str], *, sources: Sequence[str] = (), tokens: int
) -> ArtifactRef:
    history: list[dict[str, Any]] = []
    for step in range(10, 310, 10):
        entry: dict[str, Any] = {"step": step, "train/loss": 0.4 + 3 * math.exp(-step / 70)}
        for index, name in enumerate(sources):
            entry |= {
                f"train/{name}/ce": 0.3 + 0.06 * index + (4 - index) * math.exp(-step / 60),
                f"train/{name}/kl": 0.1 + 0.4 * index * math.exp(-step / 90),
                f"train/{name}/swap_rate": 0.45 - 0.3 * index,
                f"train/{name}/teacher_accuracy": 0.55 + 0.3 * index,
            }
        history.append(entry)
    metrics = {
        "stage": stage, "steps": 300, "tokens": tokens, "train_seconds": 118.2, "tokens_per_second": tokens / 118.2,
        "flops": 8.0 * 2e6 * tokens, "peak_memory_bytes": 1_450_000_000, "num_parameters": 2_000_000,
        "final": {"train/loss": history[-1]["train/loss"]},
    }  # fmt: skip
    return publish(store, "model", {"history.json": history}, metrics=metrics, inputs=inputs, settings={"stage": stage})


def run(
    store: ArtifactStore,
    name: str,
    *,
    base_right: Mapping[str, Sequence[int]],
    final_right: Mapping[str, Sequence[int]],
    pretrained_right: Mapping[str, Sequence[int]] | None = None,
    open_book_right: Mapping[str, Sequence[int]] | None = None,
    final_answers: Sequence[str] | None = None,
    final_bits: Sequence[float] = (),
    source: str = "anatomy",
    removed_text: str = "",
    empty: bool = False,
    method: str = "lssd",
    num_preferences: int = 100,
    extra_task: str = "",
    chance: float = 0.0,
    num_tokens: int = 1_300_000,
) -> RunResult:
    """Publish a run with two accuracy tasks, and bits per byte if `final_bits` is given (2.0 for the base)."""
    tasks: list[dict[str, Any]] = [
        {"kind": "closed_world", "name": "domain_questions"},
        {"kind": "closed_world", "name": "general_questions_unasked", "group": "general", "about": "general_unasked"},
    ]
    config = AdaptConfig.model_validate(
        {
            "name": name,
            "pretrain": {"method": {"kind": method}},
            "align": {"selection": {"num_preferences": num_preferences}},
            "evaluate": {"tasks": tasks, "num_resamples": 200},
        }
    )
    sizes = [100] * len(final_bits)
    corpus_ref = corpus(store, source=source, text=removed_text, empty=empty)
    mixture_ref = mixture(store, corpus_ref, source, num_tokens)
    pretrained = model(
        store,
        f"{name}-pretrain",
        {"mixture": mixture_ref.digest, "base": BASE["digest"]},
        sources=[source, "t0"],
        tokens=num_tokens,
    )
    refs = {"corpus": corpus_ref, "mixture": mixture_ref, "pretrained": pretrained}
    if not empty:
        row = {"id": "i1", "source": "t0", "prompt": removed_text or "Name a bone.", "response": "Femur.", "score": 0.5,
               "plain_loss": 0.7, "chat_loss": 1.2}  # fmt: skip
        refs["selection"] = publish(
            store, "selection",
            {"sft.parquet": pd.DataFrame([row]), "report.json": {"strategy": "known_gap", "pools": {}}},
            inputs={"corpus": corpus_ref.digest, "model": pretrained.digest},
        )  # fmt: skip
        refs["sft"] = model(
            store, f"{name}-sft", {"selection": refs["selection"].digest, "model": pretrained.digest}, tokens=40_000
        )
    if num_preferences and not empty:
        refs["dpo"] = model(store, f"{name}-dpo", {"model": refs["sft"].digest}, tokens=20_000)
    final = list(refs)[-1]

    def evaluate(
        role: str, form: str, digest: str, right: Mapping[str, Sequence[int]], bits: Sequence[float]
    ) -> ArtifactRef:
        items = []
        for task, grades in right.items():
            has_answers = role == "final" and task == "domain_questions"
            items += accuracy_items(task, grades, final_answers if has_answers else None, chance)
        if extra_task:
            items += accuracy_items(extra_task, [0, 1])
        items += bits_items(bits, sizes[: len(bits)])
        return evaluation(store, form, {"name": f"{name}-{role}", "digest": digest}, items)

    evaluations = {
        "base": evaluate("base", "plain", BASE["digest"], base_right, [2.0 * num_bytes for num_bytes in sizes]),
        "final": evaluate("final", "chat", refs[final].digest, final_right, final_bits),
    }
    if open_book_right:
        evaluations["open-book"] = evaluate("base", "plain", BASE["digest"], open_book_right, [])
    if pretrained_right:
        evaluations["pretrained"] = evaluate("pretrained", "plain", pretrained.digest, pretrained_right, final_bits)
    result = RunResult(
        config=config,
        base=ModelRef.from_json(BASE),
        refs=refs,
        final=final,
        evaluations=evaluations,
        tracking=TrackingRef("sqlite:///mlflow.db", "1", f"run-{name}", "3"),
    )
    return load_run(save_run(store, result))


def hits(n: int, share: float, offset: int = 0) -> list[int]:
    """Return `n` grades with about `share` right answers, spread evenly and shifted by `offset`."""
    return [int(((index + offset) * 7919 % n) < share * n) for index in range(n)]
