"""The stages SFT and DPO: a selection and a model in, a model that answers in the chat form out."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixcpt.align.chat import Encoded, context_tokens, encode_chat, load_chat_tokenizer
from mixcpt.align.selection import INSTRUCTIONS, PREFERENCES, Pool, unusable
from mixcpt.align.stage import dpo_key, sft_key
from mixcpt.config import DpoConfig, SftConfig
from mixcpt.errors import DataError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import Tracker

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer


@dataclass(frozen=True)
class Samples:
    """What a stage trains on."""

    answers: list[list[Encoded]]
    """Per sample: its answers in the chat form, in the order of the pool's columns."""
    skipped: dict[str, int]
    """Selected samples that cannot be trained on, by reason."""

    @property
    def num_tokens(self) -> int:
        return sum(encoded.num_tokens for answers in self.answers for encoded in answers)


@dataclass(frozen=True)
class Finetuning:
    """One call of SFT or DPO."""

    name: str
    pool: Pool
    config: SftConfig | DpoConfig
    selection: ArtifactRef
    model: ModelRef
    chat_template: str
    """Setting `base.chat_template`; empty for the model's own template."""
    key: StageKey


MakeTrainer = Callable[["PreTrainedModel", Samples, "PreTrainedTokenizerBase", Path], "Trainer"]
"""Function from a model, samples, tokenizer and the folder of checkpoints to a trainer."""


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
    """Returns the model trained to answer in the chat form; only answer tokens carry loss.

    Raises:
        ModelError: If the model has no usable chat template.
        DataError: If no selected sample can be used.
    """

    def trainer(
        student: PreTrainedModel, samples: Samples, tokenizer: PreTrainedTokenizerBase, folder: Path
    ) -> Trainer:
        from mixcpt.align.trl_adapter import sft_trainer

        encoded = [response for (response,) in samples.answers]
        return sft_trainer(config, encoded, student, tokenizer, folder=folder, seed=seed, tracker=tracker)

    key = sft_key(config, selection, model, chat_template, seed=seed)
    finetuning = Finetuning(
        name="sft",
        pool=INSTRUCTIONS,
        config=config,
        selection=selection,
        model=model,
        chat_template=chat_template,
        key=key,
    )
    return _produce(finetuning, trainer, store)


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
    """Returns the model trained to prefer chosen over rejected answers; `model`, from SFT, is the reference too.

    Raises:
        ModelError: If the model has no usable chat template.
        DataError: If no selected pair can be used.
    """

    def trainer(
        student: PreTrainedModel, samples: Samples, tokenizer: PreTrainedTokenizerBase, folder: Path
    ) -> Trainer:
        from mixcpt.align.trl_adapter import dpo_trainer

        pairs = [(chosen, rejected) for chosen, rejected in samples.answers]
        return dpo_trainer(config, pairs, student, tokenizer, folder=folder, seed=seed, tracker=tracker)

    key = dpo_key(config, selection, model, chat_template, seed=seed)
    finetuning = Finetuning(
        name="dpo",
        pool=PREFERENCES,
        config=config,
        selection=selection,
        model=model,
        chat_template=chat_template,
        key=key,
    )
    return _produce(finetuning, trainer, store)


def _produce(finetuning: Finetuning, make_trainer: MakeTrainer, store: ArtifactStore) -> ArtifactRef:
    """Train, publish the model and remove its checkpoints, unless the store has the model."""
    key, model = finetuning.key, finetuning.model

    def build(folder: Path) -> dict[str, Any]:
        tokenizer = load_chat_tokenizer(model, finetuning.chat_template)
        samples = _read(finetuning, tokenizer)
        student = load_model(model)
        checkpoints = store.work_directory(key) / "checkpoints"
        run = _train(make_trainer(student, samples, tokenizer, checkpoints), finetuning.name, checkpoints)
        _save(student, tokenizer, folder / "model", trained_from=model)
        (folder / "history.json").write_text(json.dumps(run.history, indent=1, sort_keys=True))
        return _metrics(finetuning, samples, run, student)

    lineage = {"selection": finetuning.selection.to_json(), "model": model.to_json()}
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


@dataclass(frozen=True)
class TrainingRun:
    """What a training went through."""

    history: list[dict[str, int | float]]
    steps: int
    resumed_steps: int
    """Steps that an interrupted process had done before."""
    seconds: float
    """Of this process alone."""


def _train(trainer: Trainer, stage: str, checkpoints: Path) -> TrainingRun:
    """Returns how the training went; it goes on from the last whole checkpoint where there is one."""
    from mixcpt.align.trl_adapter import stage_history
    from mixcpt.train.callbacks import last_complete_checkpoint

    checkpoint = last_complete_checkpoint(checkpoints)
    resumed_steps = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - started
    return TrainingRun(stage_history(trainer, stage), trainer.state.global_step, resumed_steps, seconds)


def _metrics(finetuning: Finetuning, samples: Samples, run: TrainingRun, student: PreTrainedModel) -> dict[str, Any]:
    from mixcpt.train.costs import peak_memory_bytes, student_flops_per_token

    tokens = samples.num_tokens * finetuning.config.epochs
    training_flops = student_flops_per_token(student, recompute=False)
    reference_flops = training_flops // 3 if finetuning.pool is PREFERENCES else 0  # one forward of three passes, once
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
