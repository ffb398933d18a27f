"""Publishes a finished training: the model, its history of metrics, and its cost."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from mixcpt.distill.head import CausalModel
from mixcpt.store.models import ModelRef
from mixcpt.train.callbacks import history
from mixcpt.train.costs import peak_memory_bytes, training_flops
from mixcpt.train.scope import merged
from mixcpt.train.trainer import DistillationTrainer

_TIMES = ("train/seconds", "train/tokens_per_second")
_TOKENIZER_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.jinja", "*.model"),
)


def publish(trainer: DistillationTrainer, trained: CausalModel, base: ModelRef, folder: Path) -> dict[str, Any]:
    """Write model, tokenizer and history into `folder`, and return the metrics of the record."""
    steps = history(trainer.state.log_history)
    metrics = _metrics(trainer, trained, steps)
    model = merged(trained)
    model.config.use_cache = getattr(AutoConfig.from_pretrained(base.path), "use_cache", True)
    model.save_pretrained(folder / "model")
    for pattern in _TOKENIZER_FILES:
        for path in base.directory.glob(pattern):
            shutil.copy2(path, folder / "model" / path.name)
    # The history has no times, so equal trainings publish equal files and later stages find their results.
    timeless = [{name: value for name, value in step.items() if name not in _TIMES} for step in steps]
    (folder / "history.json").write_text(json.dumps(timeless, indent=1, sort_keys=True))
    return metrics


def _metrics(trainer: DistillationTrainer, trained: CausalModel, steps: list[dict[str, int | float]]) -> dict[str, Any]:
    rows = trainer.rows
    done = trainer.state.global_step / trainer.state.max_steps  # below 1 if the retention control stopped the training
    num_tokens = round(done * rows.num_rows * rows.row_tokens)
    seconds = sum(step["train/seconds"] for step in steps)
    return {
        "steps": trainer.state.global_step,
        "rows": rows.num_rows,
        "blank_rows": rows.num_blank_rows,
        "tokens": num_tokens,
        "train_seconds": round(seconds, 3),
        "tokens_per_second": round(num_tokens / seconds, 1),
        "flops": round(done * training_flops(trainer, trained)),
        "peak_memory_bytes": peak_memory_bytes(),
        "num_parameters": sum(weight.numel() for weight in trained.parameters()),
        "num_trained_parameters": sum(weight.numel() for weight in trained.parameters() if weight.requires_grad),
        "final": {name: value for name, value in steps[-1].items() if name != "step"},
    }
