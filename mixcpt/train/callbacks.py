"""Callbacks for a `transformers.Trainer`: metrics for a tracker, and checkpoints with a completeness marker."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mixcpt.store.spool import Tracker
from mixcpt.train.reporters import reporter_callbacks

_MARKER = "COMPLETE"
_PREFIX = "train/"
_NO_METRICS = {"step", "epoch", "total_flos"}


def observe(trainer: Trainer, tracker: Tracker) -> None:
    """Send the trainer's metrics to `tracker` and other tools, mark complete checkpoints, and disable its printing."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(SpoolCallback(tracker))
    for callback in reporter_callbacks():
        trainer.add_callback(callback)
    trainer.add_callback(CheckpointCallback())


class SpoolCallback(TrainerCallback):
    """Sends all metrics to a tracker under `train/`, from the first process only."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        metrics = measurements(logs or {})
        if metrics and state.is_world_process_zero:
            self.tracker.log(state.global_step, metrics, total_steps=state.max_steps)


class CheckpointCallback(TrainerCallback):
    """Logs at every checkpoint, marks it once all files are written, and removes incomplete ones."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Remove incomplete checkpoints, which `save_total_limit` would count. Every process has resumed by now."""
        for path in Path(str(args.output_dir)).glob("checkpoint-*"):
            if state.is_world_process_zero and not _is_complete(path):
                shutil.rmtree(path)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """End the measuring window at a checkpoint, so that a resumed run measures the same windows."""
        control.should_log = control.should_log or control.should_save
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        PartialState().wait_for_everyone()  # every process writes its own random state
        if state.is_world_process_zero:
            checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            # atomic; the sizes of all files reveal truncated ones
            draft = checkpoint / f".{_MARKER}"
            draft.write_text(json.dumps(_sizes(checkpoint)))
            draft.replace(checkpoint / _MARKER)


def measurements(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of one Trainer log, named `train/...`; none for the summary at the end."""
    if "train_runtime" in logs:  # only the summary has it
        return {}
    return {
        name if name.startswith(_PREFIX) else _PREFIX + name: float(value)
        for name, value in logs.items()
        if name not in _NO_METRICS and isinstance(value, int | float)
    }


def history(logs: Iterable[Mapping[str, Any]]) -> list[dict[str, int | float]]:
    """Return the metrics of `trainer.state.log_history`, each with its `step`.

    Checkpoints contain the log history, so no step occurs twice after a resume.
    """
    return [{"step": log["step"], **metrics} for log in logs if (metrics := measurements(log))]


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in `folder`, or None."""
    complete = (path for path in folder.glob("checkpoint-*") if _is_complete(path))
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _is_complete(checkpoint: Path) -> bool:
    try:
        return bool(json.loads((checkpoint / _MARKER).read_text()) == _sizes(checkpoint))
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def _sizes(checkpoint: Path) -> dict[str, int]:
    return {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name.lstrip(".") != _MARKER
    }
