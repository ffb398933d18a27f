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

import pandas as pd

from mixcpt.align.chat import Encoded, context_tokens, encode_chat, load_chat_tokenizer, template_digest
from mixcpt.align.selection import INSTRUCTIONS, PREFERENCES, Pool, unusable
from mixcpt.config import DpoConfig, SftConfig
from mixcpt.errors import DataError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import Tracker

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

_VERSION = 2


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
class Stage:
    """All that decides the result of a stage."""

    name: str
    pool: Pool
    config: SftConfig | DpoConfig
    selection: ArtifactRef
    model: ModelRef
    tokenizer: PreTrainedTokenizerBase
    seed: int

    @property
    def key(self) -> StageKey:
        settings = {
            "stage": self.name,
            "config": self.config,
            "seed": self.seed,
            "chat_template": template_digest(self.tokenizer),
        }
        return StageKey("model", _VERSION, settings, {"selection": self.selection.digest, "model": self.model.digest})

    @property
    def lineage(self) -> dict[str, Any]:
        return {"selection": self.selection.to_json(), "model": self.model.to_json()}


MakeTrainer = Callable[["PreTrainedModel", Samples, Path], "Trainer"]
"""From a model, samples and the folder of checkpoints to a trainer."""


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
    tokenizer = load_chat_tokenizer(model, chat_template)

    def trainer(student: PreTrainedModel, samples: Samples, folder: Path) -> Trainer:
        from mixcpt.align.trl_adapter import sft_trainer

        encoded = [response for (response,) in samples.answers]
        return sft_trainer(config, encoded, student, tokenizer, folder=folder, seed=seed, tracker=tracker)

    return _produce(Stage("sft", INSTRUCTIONS, config, selection, model, tokenizer, seed), trainer, store)


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
    tokenizer = load_chat_tokenizer(model, chat_template)

    def trainer(student: PreTrainedModel, samples: Samples, folder: Path) -> Trainer:
        from mixcpt.align.trl_adapter import dpo_trainer

        pairs = [(chosen, rejected) for chosen, rejected in samples.answers]
        return dpo_trainer(config, pairs, student, tokenizer, folder=folder, seed=seed, tracker=tracker)

    return _produce(Stage("dpo", PREFERENCES, config, selection, model, tokenizer, seed), trainer, store)


def _produce(stage: Stage, make_trainer: MakeTrainer, store: ArtifactStore) -> ArtifactRef:
    def build(folder: Path) -> dict[str, Any]:
        samples = _read(stage)
        student = load_model(stage.model)
        checkpoints = store.work_directory(stage.key) / "checkpoints"
        run = _train(make_trainer(student, samples, checkpoints), stage.name, checkpoints)
        _save(stage, student, folder / "model")
        (folder / "history.json").write_text(json.dumps(run.history, indent=1, sort_keys=True))
        return _metrics(stage, samples, run, student)

    trained = store.produce(stage.key, build, lineage=stage.lineage)
    if not trained.reused:
        shutil.rmtree(store.work_directory(stage.key) / "checkpoints")
    return trained


def _save(stage: Stage, student: PreTrainedModel, folder: Path) -> None:
    from transformers import AutoConfig

    student.config.use_cache = getattr(AutoConfig.from_pretrained(stage.model.path), "use_cache", True)
    student.save_pretrained(folder)
    stage.tokenizer.save_pretrained(folder)


def _read(stage: Stage) -> Samples:
    """Returns the selected samples that fit into `max_tokens` and the model's context.

    Raises:
        DataError: If none does.
    """
    pool = stage.pool
    rows = pd.read_parquet(stage.selection.file(pool.file))
    max_tokens = context_tokens(stage.model, stage.config.max_tokens)
    answers: list[list[Encoded]] = []
    skipped: Counter[str] = Counter()
    for prompt, *texts in rows[["prompt", *pool.answers]].itertuples(index=False, name=None):
        encoded = [encode_chat(stage.tokenizer, prompt, text) for text in texts]
        if problem := unusable(texts, encoded, max_tokens):
            skipped[problem] += 1
        else:
            answers.append(encoded)
    if not answers:
        raise DataError(
            f"{stage.name}: none of the {len(rows)} selected {pool.name} can be trained on "
            f"(skipped: {dict(skipped)}; at most {max_tokens} tokens)",
            f"add {pool.name} to the corpus, raise align.{stage.name}.max_tokens, "
            f"or set align.selection.num_{pool.name} to 0",
        )
    return Samples(answers, dict(skipped))


@dataclass(frozen=True)
class Run:
    """What a training went through."""

    history: list[dict[str, int | float]]
    steps: int
    resumed_steps: int
    """Steps that an interrupted process had done before."""
    seconds: float
    """Of this process alone."""


def _train(trainer: Trainer, stage: str, checkpoints: Path) -> Run:
    """Returns how the training went; it goes on from the last whole checkpoint where there is one."""
    from mixcpt.align.trl_adapter import stage_history
    from mixcpt.train.callbacks import last_complete_checkpoint

    checkpoint = last_complete_checkpoint(checkpoints)
    resumed_steps = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - started
    return Run(stage_history(trainer, stage), trainer.state.global_step, resumed_steps, seconds)


def _metrics(stage: Stage, samples: Samples, run: Run, student: PreTrainedModel) -> dict[str, Any]:
    from mixcpt.train.costs import peak_memory_bytes, student_flops_per_token

    tokens = samples.num_tokens * stage.config.epochs
    training_flops = student_flops_per_token(student, recompute=False)
    reference_flops = training_flops // 3 if stage.pool is PREFERENCES else 0  # one forward of three passes, once
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
