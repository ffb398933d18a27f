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

from mixcpt.align.chat import Encoded, context_tokens, encode_chat, load_chat_tokenizer
from mixcpt.align.keys import finetuning_key
from mixcpt.align.selection import INSTRUCTIONS, PREFERENCES, unusable
from mixcpt.config import DpoConfig, SftConfig
from mixcpt.errors import DataError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
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
) -> ArtifactRef:
    """Train a model to answer in the chat form, with SFT or DPO, and return its reference.

    Only answer tokens have a loss. DPO trains the model to prefer chosen over rejected answers; `model`, usually the
    result of SFT, is also the reference of its loss. `chat_template` is empty for the model's own template.

    Raises:
        ModelError: If the model has no usable chat template.
        DataError: If no selected sample can be used.
    """
    key = finetuning_key(config, selection, model, chat_template, seed=seed)

    def build(folder: Path) -> dict[str, Any]:
        from mixcpt.align.trl_adapter import make_trainer

        tokenizer = load_chat_tokenizer(model, chat_template)
        samples = _read(config, selection, model, tokenizer)
        student = load_model(model)
        checkpoints = store.work_directory(key) / "checkpoints"
        trainer = make_trainer(
            config, samples.answers, student, tokenizer, folder=checkpoints, seed=seed, tracker=tracker
        )
        run = _train(trainer, checkpoints)
        _save(student, tokenizer, folder / "model", trained_from=model)
        (folder / "history.json").write_text(json.dumps(run.history, indent=1, sort_keys=True))
        return _metrics(config, samples, run, student)

    lineage = {"selection": selection.to_json(), "model": model.to_json()}
    trained = store.produce(key, build, lineage=lineage)
    if not trained.reused:
        shutil.rmtree(store.work_directory(key) / "checkpoints")
    return trained


def _save(
    student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, trained_from: ModelRef
) -> None:
    from transformers import AutoConfig

    # Training turned the key-value cache off; the saved model has the setting of the model it was trained from.
    student.config.use_cache = getattr(AutoConfig.from_pretrained(trained_from.path), "use_cache", True)
    student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read(
    config: SftConfig | DpoConfig, selection: ArtifactRef, model: ModelRef, tokenizer: PreTrainedTokenizerBase
) -> Samples:
    """Return the selected samples that fit into `max_tokens` and the model's context; raise `DataError` if none."""
    import pandas as pd

    name, pool = ("sft", INSTRUCTIONS) if isinstance(config, SftConfig) else ("dpo", PREFERENCES)
    rows = pd.read_parquet(selection.file(pool.file))
    max_tokens = context_tokens(model, config.max_tokens)
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
    from mixcpt.train.callbacks import last_complete_checkpoint

    checkpoint = last_complete_checkpoint(checkpoints)
    resumed_steps = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - started
    return TrainingRun(stage_history(trainer), trainer.state.global_step, resumed_steps, seconds=seconds)


def _metrics(
    config: SftConfig | DpoConfig, samples: Samples, run: TrainingRun, student: PreTrainedModel
) -> dict[str, Any]:
    from mixcpt.train.costs import peak_memory_bytes, student_flops_per_token

    tokens = samples.num_tokens * config.epochs
    training_flops = student_flops_per_token(student, recompute=False)
    # DPO runs the reference once: one forward, a third of the forward and backward passes of training.
    reference_flops = training_flops // 3 if isinstance(config, DpoConfig) else 0
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
