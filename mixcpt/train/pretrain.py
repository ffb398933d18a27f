"""Stage 1, continual pre-training: a mixture and a base model in, an adapted model out."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import AutoConfig, TrainingArguments

from mixcpt.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.config import PretrainConfig
from mixcpt.distill.body import check_model
from mixcpt.distill.objective import objective_of
from mixcpt.errors import ArtifactError, ConfigError
from mixcpt.models import ModelRef, load_model
from mixcpt.tracking import Tracker
from mixcpt.train.arguments import training_arguments
from mixcpt.train.callbacks import history, last_complete_checkpoint, observe
from mixcpt.train.costs import flops_per_token, peak_memory_bytes
from mixcpt.train.data import PackedRows
from mixcpt.train.trainer import DistillationTrainer

_VERSION = 1
_TIMES = ("train/seconds", "train/tokens_per_second")
_TOKENIZER_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.jinja", "*.model"),
)


def pretrain(
    config: PretrainConfig,
    mixture: ArtifactRef,
    base: ModelRef,
    *,
    seed: int,
    store: ArtifactStore,
    tracker: Tracker,
) -> ArtifactRef:
    """Returns the adapted model, in the folder `model` of its artifact, with `history.json` beside it.

    One pass over the rows of the mixture in their order; a last batch that is not full is kept. After an interruption
    it goes on from the last whole checkpoint, bit for bit on CPU. Under torchrun every process calls this, and the
    first one publishes.

    Raises:
        ConfigError: If micro_batch_rows times the number of processes does not divide batch_rows.
        ModelError: If the model cannot be trained on packed rows.
        ArtifactError: If the result could not be written.
    """
    key = StageKey(
        "model",
        _VERSION,
        {"stage": "pretrain", "pretrain": config, "seed": seed},
        {"mixture": mixture.digest, "base": base.digest},
    )
    checkpoints = store.work_directory(key) / "checkpoints"

    def build(folder: Path) -> dict[str, Any]:
        return _publish(_train(config, mixture, base, seed, checkpoints, tracker), base, folder)

    if _environment("RANK", 0) == 0:
        ref = store.produce(key, build, lineage={"base": base.name})
        shutil.rmtree(checkpoints, ignore_errors=True)
        _wait()
        return ref
    if store.find(key.kind, key.fingerprint) is None:
        _train(config, mixture, base, seed, checkpoints, tracker)
    _wait()
    if published := store.find(key.kind, key.fingerprint):
        return published
    raise ArtifactError("the first process has not published the model", "see its own error")


def _train(
    config: PretrainConfig, mixture: ArtifactRef, base: ModelRef, seed: int, checkpoints: Path, tracker: Tracker
) -> DistillationTrainer:
    """Returns the trainer when all steps are done, whether in this process or, before an interruption, in another."""
    arguments = _arguments(config, seed, checkpoints)
    objective = objective_of(config.method)
    student = load_model(base)
    check_model(student)
    teacher_type = "bfloat16" if config.precision == "bf16" else "float32"
    trainer = DistillationTrainer(
        student,
        arguments,
        PackedRows(mixture.file("rows.parquet"), config.batch_rows),
        objective=objective,
        source_names=_source_names(mixture),
        teacher=load_model(base, dtype=teacher_type) if objective.needs_teacher else None,
    )
    observe(trainer, tracker)
    checkpoint = last_complete_checkpoint(checkpoints)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer


def _arguments(config: PretrainConfig, seed: int, checkpoints: Path) -> TrainingArguments:
    num_processes = _environment("WORLD_SIZE", 1)
    accumulation_steps, rest = divmod(config.batch_rows, config.micro_batch_rows * num_processes)
    if rest:
        raise ConfigError(
            f"pretrain.batch_rows is {config.batch_rows}, which {num_processes} processes with "
            f"{config.micro_batch_rows} rows each (pretrain.micro_batch_rows) do not divide",
            "choose batch_rows as a multiple of micro_batch_rows x processes",
        )
    common = training_arguments(
        config.optimizer,
        folder=checkpoints,
        seed=seed,
        micro_batch_size=config.micro_batch_rows,
        accumulation_steps=accumulation_steps,
        log_steps=config.log_steps,
        checkpoint_steps=config.checkpoint_steps,
        precision=config.precision,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    return TrainingArguments(**common, train_sampling_strategy="sequential", remove_unused_columns=False)


def _source_names(mixture: ArtifactRef) -> list[str]:
    """Returns the names of the sources, by their ids in the rows."""
    sources = json.loads(mixture.file("accounting.json").read_text())["sources"]
    return [source["name"] for source in sorted(sources, key=lambda source: int(source["id"]))]


def _publish(trainer: DistillationTrainer, base: ModelRef, folder: Path) -> dict[str, Any]:
    """Writes model, tokenizer and history into `folder`; returns the metrics of the record."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.config.use_cache = getattr(AutoConfig.from_pretrained(base.path), "use_cache", True)
    model.save_pretrained(folder / "model")
    for pattern in _TOKENIZER_FILES:
        for path in base.directory.glob(pattern):
            shutil.copy2(path, folder / "model" / path.name)
    steps = history(trainer.state.log_history)
    # Equal trainings give equal files, so that what is built on them is found again; times go into the record.
    timeless = [{name: value for name, value in step.items() if name not in _TIMES} for step in steps]
    (folder / "history.json").write_text(json.dumps(timeless, indent=1, sort_keys=True))
    return _metrics(trainer, steps)


def _metrics(trainer: DistillationTrainer, steps: list[dict[str, int | float]]) -> dict[str, Any]:
    rows = trainer.rows
    num_tokens = rows.num_rows * rows.row_tokens
    model = trainer.accelerator.unwrap_model(trainer.model)
    per_token = flops_per_token(model, trainer.teacher, recompute=bool(trainer.args.activation_checkpointing))
    seconds = sum(step["train/seconds"] for step in steps)
    return {
        "steps": trainer.state.global_step,
        "rows": rows.num_rows,
        "blank_rows": rows.num_blank_rows,
        "tokens": num_tokens,
        "train_seconds": round(seconds, 3),
        "tokens_per_second": round(num_tokens / seconds, 1),
        "flops": num_tokens * per_token,
        "peak_memory_bytes": peak_memory_bytes(),
        "num_parameters": model.num_parameters(),
        "final": {name: value for name, value in steps[-1].items() if name != "step"},
    }


def _environment(name: str, default: int) -> int:
    """Returns one of the numbers that torchrun hands to its processes."""
    return int(os.environ.get(name, default))


def _wait() -> None:
    """Waits for the other processes, where there are any."""
    if _environment("WORLD_SIZE", 1) > 1:
        PartialState().wait_for_everyone()
