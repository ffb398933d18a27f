"""The stages SFT and DPO: train a model on selected samples to answer in the chat form."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mixcpt.align.chat import Encoded, context_tokens, encode_chat, load_chat_tokenizer
from mixcpt.align.keys import finetuning_key
from mixcpt.align.selection import INSTRUCTIONS, PREFERENCES, unusable
from mixcpt.config import DpoConfig, SftConfig, Sharding
from mixcpt.distill.model import CausalModel
from mixcpt.errors import DataError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import Tracker
from mixcpt.train.callbacks import last_complete_checkpoint
from mixcpt.train.costs import multiplied_weights, peak_memory_bytes, student_flops_per_token
from mixcpt.train.guards import require_finite
from mixcpt.train.publishing import publish_from_first
from mixcpt.train.scope import apply_scope, merged
from mixcpt.train.sharding import environment, gathered_state

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer


@dataclass(frozen=True)
class Samples:
    """Training data of SFT or DPO."""

    answers: list[list[Encoded]]
    """Answers of every sample in the chat form, in the order of the pool's columns."""
    skipped: dict[str, int]
    """Number of selected samples that cannot be trained on, by reason."""

    @property
    def num_tokens(self) -> int:
        return sum(encoded.num_tokens for encoded in chain.from_iterable(self.answers))


@dataclass(frozen=True)
class TrainingRun:
    """Measurements of a training run."""

    history: list[dict[str, int | float]]
    steps: int
    resumed_steps: int
    """Number of steps done by an interrupted process before this one."""
    seconds: float


def finetune(
    config: SftConfig | DpoConfig,
    selection: ArtifactRef,
    model: ModelRef,
    chat_template: str,
    *,
    seed: int,
    store: ArtifactStore,
    tracker: Tracker,
    sharding: Sharding = "none",
) -> ArtifactRef:
    """Train a model to answer in the chat form, with SFT or DPO, and return its reference.

    Only answer tokens have a loss. DPO trains the model to prefer chosen over rejected answers; `model`, usually the
    result of SFT, is also the reference of its loss. `chat_template` is empty for the model's own template. Under
    torchrun every process calls this function, and the first one publishes.

    Raises:
        ModelError: If the model has no usable chat template, or cannot be trained in this scope.
        DataError: If no selected sample can be used.
        ConfigError: If the number of processes does not divide the batch size.
        ArtifactError: If the result could not be written.
    """
    key = finetuning_key(config, selection, model, chat_template, seed=seed)
    work = _Work(
        config=config,
        selection=selection,
        model=model,
        chat_template=chat_template,
        seed=seed,
        sharding=sharding,
        checkpoints=store.work_directory(key) / "checkpoints",
        tracker=tracker,
    )
    return publish_from_first(
        store,
        key,
        lambda folder: _build(work, folder),
        assist=lambda: _build(work, None),
        checkpoints=work.checkpoints,
        lineage={"selection": selection.to_json(), "model": model.to_json()},
    )


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Arguments of one training."""

    config: SftConfig | DpoConfig
    selection: ArtifactRef
    model: ModelRef
    chat_template: str
    seed: int
    sharding: Sharding
    checkpoints: Path
    tracker: Tracker


def _build(work: _Work, folder: Path | None) -> dict[str, Any]:
    """Train, write the model and its history into `folder`, and return the metrics.

    A process other than the first one has no folder; it takes part in the training and in gathering the parameters.
    """
    from mixcpt.align.trl_adapter import make_trainer

    tokenizer = load_chat_tokenizer(work.model, work.chat_template)
    samples = _read(work, tokenizer)
    trainer = make_trainer(
        work.config,
        samples.answers,
        _load_student(work),
        tokenizer,
        folder=work.checkpoints,
        seed=work.seed,
        tracker=work.tracker,
        sharding=work.sharding,
    )
    run = _train(trainer, work.checkpoints)
    trained = _trained_model(trainer, work)
    if folder is None:
        return {}
    metrics = _metrics(work.config, samples, run, trained)
    model = merged(trained)
    require_finite(model)
    _save(model, tokenizer, folder / "model", trained_from=work.model)
    (folder / "history.json").write_text(json.dumps(run.history, indent=1, sort_keys=True))
    return metrics


def _load_student(work: _Work) -> CausalModel:
    """Return the model to train in its scope; frozen weights are bf16 on a GPU that computes in bf16.

    FSDP needs one number format for all parameters, so a sharded model is fp32.
    """
    config = work.config
    narrow = config.precision == "bf16" and config.scope.kind == "lora" and torch.cuda.is_available()
    model = load_model(work.model, dtype="bfloat16" if narrow and work.sharding == "none" else "float32")
    student = apply_scope(model, config.scope, seed=work.seed)
    for weight in student.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return student


def _trained_model(trainer: Trainer, work: _Work) -> CausalModel:
    """Return the trained model with all parameters; its adapters are on fp32 weights, so that merging is exact.

    Sharded parameters are gathered, which needs every process.
    """
    trained: CausalModel = trainer.accelerator.unwrap_model(trainer.model)
    state = gathered_state(trainer.accelerator, trained)
    if state is None and all(weight.dtype == torch.float32 for weight in trained.parameters()):
        return trained
    if state is None:
        state = {name: weight.detach().cpu() for name, weight in trained.named_parameters() if weight.requires_grad}
    whole = apply_scope(load_model(work.model), work.config.scope, seed=work.seed)
    if environment("RANK", 0) == 0:
        whole.load_state_dict(state, strict=False)
    return whole


def _save(
    student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, trained_from: ModelRef
) -> None:
    from transformers import AutoConfig

    # Training turned the key-value cache off; the saved model has the setting of the model it was trained from.
    student.config.use_cache = getattr(AutoConfig.from_pretrained(trained_from.path), "use_cache", True)
    student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in trained_from.directory.glob("*processor_config.json"):  # of a vision-language model
        shutil.copy2(path, folder / path.name)


def _read(work: _Work, tokenizer: PreTrainedTokenizerBase) -> Samples:
    """Return the selected samples that fit into `max_tokens` and the model's context; raise `DataError` if none."""
    import pandas as pd

    config = work.config
    name, pool = ("sft", INSTRUCTIONS) if isinstance(config, SftConfig) else ("dpo", PREFERENCES)
    rows = pd.read_parquet(work.selection.file(pool.file))
    max_tokens = context_tokens(work.model, config.max_tokens)
    answers: list[list[Encoded]] = []
    skipped: Counter[str] = Counter()
    for prompt, *texts in rows[["prompt", *pool.answers]].itertuples(index=False, name=None):
        encoded = [encode_chat(tokenizer, prompt, text) for text in texts]
        if problem := unusable(texts, encoded, max_tokens):
            skipped[problem] += 1
        else:
            answers.append(encoded)
    if not answers:
        raise DataError(
            f"{name}: none of the {len(rows)} selected {pool.name} can be trained on "
            f"(skipped: {dict(skipped)}; at most {max_tokens} tokens)",
            f"add {pool.name} to the corpus, raise align.{name}.max_tokens, "
            f"or set align.selection.num_{pool.name} to 0",
        )
    return Samples(answers, dict(skipped))


def _train(trainer: Trainer, checkpoints: Path) -> TrainingRun:
    """Train, from the last complete checkpoint if there is one, and return the measurements."""
    from mixcpt.align.trl_adapter import stage_history

    checkpoint = last_complete_checkpoint(checkpoints)
    resumed_steps = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - started
    return TrainingRun(stage_history(trainer), trainer.state.global_step, resumed_steps, seconds=seconds)


def _metrics(config: SftConfig | DpoConfig, samples: Samples, run: TrainingRun, student: CausalModel) -> dict[str, Any]:
    tokens = samples.num_tokens * config.epochs
    training_flops = student_flops_per_token(student, recompute=config.gradient_checkpointing)
    # DPO runs the reference once per sample.
    reference_flops = 2 * multiplied_weights(student) if isinstance(config, DpoConfig) else 0
    return {
        "steps": run.steps,
        "resumed_steps": run.resumed_steps,
        "tokens": tokens,
        "num_samples": len(samples.answers),
        "skipped": samples.skipped,
        "train_seconds": round(run.seconds, 3),
        "tokens_per_second": round(tokens * (run.steps - run.resumed_steps) / run.steps / run.seconds, 1),
        "flops": training_flops * tokens + reference_flops * samples.num_tokens,
        "peak_memory_bytes": peak_memory_bytes(),
        "num_parameters": sum(weight.numel() for weight in student.parameters()),
        "final": {name: value for name, value in run.history[-1].items() if name != "step"},
    }
