"""The stages SFT and DPO: a selection and a model in, a model that answers in the chat form out."""

from __future__ import annotations

import json
import resource
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
from mixcpt.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.config import DpoConfig, SftConfig
from mixcpt.errors import DataError
from mixcpt.models import ModelRef, load_model
from mixcpt.tracking import Tracker

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

_VERSION = 1
_TRAINING_FLOPS = 6
_FORWARD_FLOPS = 2
"""Per parameter and token (Kaplan et al., arXiv 2001.08361, section 2.1)."""


@dataclass(frozen=True)
class Samples:
    """What a stage trains on."""

    rows: pd.DataFrame
    answers: list[list[Encoded]]
    """Per row: its answers in the chat form, in the order of the pool's columns."""
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

        pairs = list(samples.rows[["prompt", "chosen", "rejected"]].itertuples(index=False, name=None))
        return dpo_trainer(config, pairs, student, tokenizer, folder=folder, seed=seed, tracker=tracker)

    return _produce(Stage("dpo", PREFERENCES, config, selection, model, tokenizer, seed), trainer, store)


def _produce(stage: Stage, make_trainer: MakeTrainer, store: ArtifactStore) -> ArtifactRef:
    checkpoints = store.work_directory(stage.key) / "checkpoints"

    def build(folder: Path) -> dict[str, Any]:
        samples = _read(stage)
        student = load_model(stage.model)
        run = _train(make_trainer(student, samples, checkpoints), stage.name, checkpoints)
        student.config.use_cache = True  # off for training only
        student.save_pretrained(folder / "model")
        stage.tokenizer.save_pretrained(folder / "model")
        (folder / "history.json").write_text(json.dumps(run.history, indent=1))
        return _metrics(stage, samples, run, student)

    trained = store.produce(stage.key, build, lineage=stage.lineage)
    shutil.rmtree(checkpoints, ignore_errors=True)  # kept until the model is published
    return trained


def _read(stage: Stage) -> Samples:
    """Returns the selected samples that fit into `max_tokens` and the model's context.

    Raises:
        DataError: If none does.
    """
    pool = stage.pool
    rows = pd.read_parquet(stage.selection.file(pool.file))
    max_tokens = context_tokens(stage.model, stage.config.max_tokens)
    kept: list[int] = []
    answers: list[list[Encoded]] = []
    skipped: Counter[str] = Counter()
    for index, (prompt, *texts) in enumerate(rows[["prompt", *pool.answers]].itertuples(index=False, name=None)):
        encoded = [encode_chat(stage.tokenizer, prompt, text) for text in texts]
        if problem := unusable(texts, encoded, max_tokens):
            skipped[problem] += 1
        else:
            kept.append(index)
            answers.append(encoded)
    if not kept:
        raise DataError(
            f"{stage.name}: none of the {len(rows)} selected {pool.name} can be trained on "
            f"(skipped: {dict(skipped)}; at most {max_tokens} tokens)",
            f"add {pool.name} to the corpus, raise align.{stage.name}.max_tokens, "
            f"or set align.selection.num_{pool.name} to 0",
        )
    return Samples(rows.iloc[kept], answers, dict(skipped))


@dataclass(frozen=True)
class Run:
    """What a training went through."""

    history: list[dict[str, float]]
    steps: int
    seconds: float
    """Of this process; what an interrupted one did before is not in it."""
    fraction: float
    """Share of the steps that this process did."""


def _train(trainer: Trainer, stage: str, checkpoints: Path) -> Run:
    """Returns how the training went; it goes on from the last whole checkpoint where there is one."""
    from mixcpt.align.trl_adapter import stage_history
    from mixcpt.train.callbacks import discard_incomplete_checkpoints, last_complete_checkpoint

    discard_incomplete_checkpoints(checkpoints)
    checkpoint = last_complete_checkpoint(checkpoints)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - started
    steps = trainer.state.global_step
    before = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    return Run(stage_history(trainer, stage), steps, seconds, (steps - before) / steps)


def _metrics(stage: Stage, samples: Samples, run: Run, student: PreTrainedModel) -> dict[str, Any]:
    num_parameters = student.num_parameters()
    tokens = samples.num_tokens * stage.config.epochs
    reference_tokens = samples.num_tokens if stage.name == "dpo" else 0
    return {
        "steps": run.steps,
        "tokens": tokens,
        "num_samples": len(samples.rows),
        "skipped": samples.skipped,
        "train_seconds": round(run.seconds, 3),
        "tokens_per_second": round(tokens * run.fraction / run.seconds, 1),
        "flops": num_parameters * (_TRAINING_FLOPS * tokens + _FORWARD_FLOPS * reference_tokens),
        "peak_memory_bytes": _peak_memory_bytes(),
        "num_parameters": num_parameters,
        "final": {name: value for name, value in run.history[-1].items() if name != "step"},
    }


def _peak_memory_bytes() -> int:
    """Returns the most memory that the GPU held, or this process where there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
