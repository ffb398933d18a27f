"""A run in small: the same sources, rows, teacher and optimiser, but few records, steps and questions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from mixcpt.config import (
    AdaptConfig,
    AlignConfig,
    CurationConfig,
    DpoConfig,
    EvaluateConfig,
    FilesSource,
    RetentionConfig,
    SftConfig,
)
from mixcpt.curation.records import TEXT_NAMES
from mixcpt.planning.samples import Sample

Stage = TypeVar("Stage", SftConfig, DpoConfig)

TRIAL_STEPS = 8
"""Optimiser steps of pre-training; those of each phase, where there are several, and the first is not timed."""
_ALIGNMENT_STEPS = 4
_MAX_ACCUMULATION = 2
"""Micro-batches of a step: more of them cost time and show nothing new."""
_QUESTIONS = 64
"""Of each task."""
FEW_QUESTIONS = 2
"""Of each task in the evaluations that show what one costs before it asks anything."""


def small_run(config: AdaptConfig, samples: Sequence[Sample], folder: Path) -> AdaptConfig:
    """Returns the settings of the trial, whose sources are files below `folder`, and its store too."""
    phases = len({stream.phase for stream in config.pretrain.method.streams()})
    micro = config.pretrain.micro_batch_rows * config.runtime.num_processes
    batch_rows = min(config.pretrain.batch_rows, micro * _MAX_ACCUMULATION)
    tokens = min(config.mixture.total_tokens, TRIAL_STEPS * phases * batch_rows * config.mixture.row_tokens)
    pretrain = config.pretrain.model_copy(
        update={"batch_rows": batch_rows, "log_steps": 1, "retention": RetentionConfig()}
    )
    return config.model_copy(
        update={
            "data_seed": config.data_seed + 1,  # of documents that were not held out, others have to be now
            "curation": _sources(config.curation, samples, folder / "sources"),
            "mixture": config.mixture.model_copy(update={"total_tokens": tokens}),
            "pretrain": pretrain,
            "align": _alignment(config.align),
            "evaluate": questions(config.evaluate, _QUESTIONS),
            "runtime": config.runtime.model_copy(update={"store": str(folder / "store")}),
        }
    )


def questions(config: EvaluateConfig, limit: int) -> EvaluateConfig:
    """Returns the evaluation with so many questions of each task at most."""
    tasks = tuple(
        task.model_copy(update={"limit": min(task.limit or limit, limit, config.batch_size)}) for task in config.tasks
    )
    return config.model_copy(update={"tasks": tasks})


def _alignment(config: AlignConfig) -> AlignConfig:
    """Returns few steps of one epoch; the candidates stay as many as the sample has."""
    few = config.selection.model_copy(
        update={
            "num_instructions": min(config.selection.num_instructions, _ALIGNMENT_STEPS * config.sft.batch_size),
            "num_preferences": min(config.selection.num_preferences, _ALIGNMENT_STEPS * config.dpo.batch_size),
        }
    )
    return AlignConfig(selection=few, sft=_once(config.sft), dpo=_once(config.dpo))


def _once(config: Stage) -> Stage:
    return config.model_copy(update={"epochs": 1})


def _sources(config: CurationConfig, samples: Sequence[Sample], folder: Path) -> CurationConfig:
    """Returns curation of the sampled records, each source in a file of its own."""
    folder.mkdir(parents=True)
    sources = []
    for sample in samples:
        path = folder / f"{sample.name}.jsonl"
        names = TEXT_NAMES[sample.pool]
        rows = ({"id": record.id, **dict(zip(names, record.texts, strict=True))} for record in sample.records)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        sources.append(FilesSource(name=sample.name, pool=sample.pool, paths=(str(path),)))
    return config.model_copy(update={"sources": tuple(sources)})
