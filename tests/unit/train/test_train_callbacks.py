"""Callbacks of the trainings: complete checkpoints, and metrics with our names."""

from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from mixcpt.config import OptimizerConfig
from mixcpt.store.spool import Spool
from mixcpt.train.callbacks import CheckpointCallback, SpoolCallback, history, last_complete_checkpoint
from mixcpt.train.optimizer import training_arguments


def state(step: int, *, is_first: bool = True) -> TrainerState:
    return TrainerState(global_step=step, max_steps=50, is_world_process_zero=is_first)


def arguments(folder: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True)


def checkpoint(folder: Path, step: int) -> Path:
    """Write a checkpoint of two files, and let the callback mark it."""
    path = folder / f"checkpoint-{step}"
    (path / "shards").mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(b"moments")
    (path / "shards" / "weights").write_bytes(b"weights")
    CheckpointCallback().on_save(arguments(folder), state(step), TrainerControl())
    return path


def test_folder_without_checkpoints_has_no_last_one(tmp_path: Path) -> None:
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "missing") is None


def test_last_checkpoint_is_the_one_of_the_highest_step(tmp_path: Path) -> None:
    paths = {step: checkpoint(tmp_path, step) for step in (100, 20, 3)}
    assert last_complete_checkpoint(tmp_path) == paths[100]


@pytest.mark.parametrize("damage", ["no marker", "shorter file", "missing file", "garbled marker"])
def test_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    whole, cut = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20)
    if damage == "no marker":
        (cut / "COMPLETE").unlink()
    elif damage == "shorter file":
        (cut / "shards" / "weights").write_bytes(b"weigh")
    elif damage == "missing file":
        (cut / "optimizer.pt").unlink()
    else:
        (cut / "COMPLETE").write_text('{"optimizer.pt": ')
    assert last_complete_checkpoint(tmp_path) == whole


def test_start_of_training_sweeps_cut_checkpoints_away(tmp_path: Path) -> None:
    whole, cut = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20)
    (cut / "COMPLETE").unlink()
    CheckpointCallback().on_train_begin(arguments(tmp_path), state(10), TrainerControl())
    assert list(tmp_path.iterdir()) == [whole]


def test_spool_gets_the_measurements_of_the_first_process_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    logs = {"loss": 2.5, "anatomy/ce": 1, "epoch": 0.3, "note": "text"}
    for is_first in (True, False):
        SpoolCallback(spool).on_log(
            arguments(tmp_path), state(7, is_first=is_first), TrainerControl(), logs={**logs, "train/kl": 0.5}
        )
    (line,), _ = spool.read()
    assert (line.step, line.total_steps) == (7, 50)
    assert line.metrics == {"train/loss": 2.5, "train/anatomy/ce": 1.0, "train/kl": 0.5}


def test_history_leaves_out_the_summary_at_the_end() -> None:
    logs = [{"step": 1, "loss": 3.0, "epoch": 0.5}, {"step": 2, "train_runtime": 9.0, "train_loss": 3.0, "epoch": 1.0}]
    assert history(logs) == [{"step": 1, "train/loss": 3.0}]


def learning_rates(optimizer: OptimizerConfig, folder: Path, num_steps: int) -> list[float]:
    """Return the rates of Trainer's own schedule for the settings, step by step."""
    import torch
    from transformers import Trainer

    settings = TrainingArguments(**training_arguments(optimizer, folder=folder, seed=0, micro_batch_size=1))
    trainer = Trainer(torch.nn.Linear(1, 1), settings)
    trainer.create_optimizer_and_scheduler(num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    return rates


def test_linear_schedule_falls_to_nothing(tmp_path: Path) -> None:
    settings = OptimizerConfig(learning_rate=0.4, schedule="linear", warmup_fraction=0.0)
    assert learning_rates(settings, tmp_path, 4) == pytest.approx([0.4, 0.3, 0.2, 0.1])
