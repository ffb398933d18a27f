"""The stages SFT and DPO: train a model on selected samples to answer in the chat form."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mixcpt.align.chat import Encoded, context_tokens, encode_chat, load_chat_tokenizer
from mixcpt.align.keys import dpo_key, sft_key
from mixcpt.align.selection import INSTRUCTIONS, PREFERENCES, Pool, unusable
from mixcpt.config import DpoConfig, SftConfig
from mixcpt.errors import DataError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import Tracker

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


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """One call of SFT or DPO."""

    name: Literal["sft", "dpo"]
    pool: Pool
    config: SftConfig | DpoConfig
    selection: ArtifactRef
    model: ModelRef
    chat_template: str
    """Setting `base.chat_template`; empty for the model's own template."""
    seed: int
    key: StageKey


@dataclass(frozen=True)
class TrainingRun:
    """Measurements of a training run."""

    history: list[dict[str, int | float]]
    steps: int
    resumed_steps: int
    """Number of steps done by an interrupted process before this one."""
    seconds: float
    """Duration of the training in this process, in seconds."""


def sft(
    config: SftConfig,
    selection: ArtifactRef,
    model: ModelRef,
    chat_template: str,
    *,
    seed: int,
    store: ArtifactStore,
    tracker: Tracker,
) -> ArtifactRef:
    """Train a model to answer in the chat form and return its reference; only answer tokens have a loss.

    Raises:
        ModelError: If the model has no usable chat template.
        DataError: If no selected sample can be used.
    """
    finetuning = Finetuning(
        name="sft",
        pool=INSTRUCTIONS,
        config=config,
        selection=selection,
        model=model,
        chat_template=chat_template,
        seed=seed,
        key=sft_key(config, selection, model, chat_template, seed=seed),
    )
    return _produce(finetuning, store, tracker)


def dpo(
    config: DpoConfig,
    selection: ArtifactRef,
    model: ModelRef,
    chat_template: str,
    *,
    seed: int,
    store: ArtifactStore,
    tracker: Tracker,
) -> ArtifactRef:
    """Train a model to prefer chosen over rejected answers and return its reference.

    `model`, usually the result of SFT, is also the reference of the loss.

    Raises:
        ModelError: If the model has no usable chat template.
        DataError: If no selected pair can be used.
    """
    finetuning = Finetuning(
        name="dpo",
        pool=PREFERENCES,
        config=config,
        selection=selection,
        model=model,
        chat_template=chat_template,
        seed=seed,
        key=dpo_key(config, selection, model, chat_template, seed=seed),
    )
    return _produce(finetuning, store, tracker)


def _produce(finetuning: Finetuning, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Train, publish the model and remove its checkpoints, unless the store has the model."""
    key, model = finetuning.key, finetuning.model

    def build(folder: Path) -> dict[str, Any]:
        tokenizer = load_chat_tokenizer(model, finetuning.chat_template)
        samples = _read(finetuning, tokenizer)
        student = load_model(model)
        checkpoints = store.work_directory(key) / "checkpoints"
        trainer = _trainer(finetuning, samples, student, tokenizer, folder=checkpoints, tracker=tracker)
        run = _train(trainer, finetuning.name, checkpoints)
        _save(student, tokenizer, folder / "model", trained_from=model)
        (folder / "history.json").write_text(json.dumps(run.history, indent=1, sort_keys=True))
        return _metrics(finetuning, samples, run, student)

    lineage = {"selection": finetuning.selection.to_json(), "model": model.to_json()}
    trained = store.produce(key, build, lineage=lineage)
    if not trained.reused:
        shutil.rmtree(store.work_directory(key) / "checkpoints")
    return trained


def _trainer(
    finetuning: Finetuning,
    samples: Samples,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    folder: Path,
    tracker: Tracker,
) -> Trainer:
    """Return the trainer of SFT or DPO; its checkpoints go to `folder`."""
    from mixcpt.align.trl_adapter import dpo_trainer, sft_trainer

    config, seed = finetuning.config, finetuning.seed
    if isinstance(config, SftConfig):
        responses = [response for (response,) in samples.answers]
        return sft_trainer(config, responses, student, tokenizer, folder=folder, seed=seed, tracker=tracker)
    pairs = [(chosen, rejected) for chosen, rejected in samples.answers]
    return dpo_trainer(config, pairs, student, tokenizer, folder=folder, seed=seed, tracker=tracker)


def _save(
    student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, trained_from: ModelRef
) -> None:
    from transformers import AutoConfig

    # Training turned the key-value cache off; the saved model has the setting of the model it was trained from.
    student.config.use_cache = getattr(AutoConfig.from_pretrained(trained_from.path), "use_cache", True)
    student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read(finetuning: Finetuning, tokenizer: PreTrainedTokenizerBase) -> Samples:
    """Return the selected samples that fit into `max_tokens` and the model's context.

    Raises:
        DataError: If no sample fits.
    """
    import pandas as pd

    pool, name = finetuning.pool, finetuning.name
    rows = pd.read_parquet(finetuning.selection.file(pool.file))
    max_tokens = context_tokens(finetuning.model, finetuning.config.max_tokens)
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


def _train(trainer: Trainer, stage: str, checkpoints: Path) -> TrainingRun:
    """Train, from the last complete checkpoint if there is one, and return the measurements."""
    from mixcpt.align.trl_adapter import stage_history
    from mixcpt.train.callbacks import last_complete_checkpoint

    checkpoint = last_complete_checkpoint(checkpoints)
    resumed_steps = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - started
    return TrainingRun(
        history=stage_history(trainer, stage),
        steps=trainer.state.global_step,
        resumed_steps=resumed_steps,
        seconds=seconds,
    )


def _metrics(finetuning: Finetuning, samples: Samples, run: TrainingRun, student: PreTrainedModel) -> dict[str, Any]:
    from mixcpt.train.costs import peak_memory_bytes, student_flops_per_token

    tokens = samples.num_tokens * finetuning.config.epochs
    training_flops = student_flops_per_token(student, recompute=False)
    # DPO runs the reference once: one forward, a third of the forward and backward passes of training.
    reference_flops = training_flops // 3 if finetuning.pool is PREFERENCES else 0
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
        "num_parameters": student.num_parameters(),
        "final": {name: value for name, value in run.history[-1].items() if name != "step"},
    }
