"""Settings of a dry run: the sources, rows, teacher and optimizer of the run, but few records, steps and questions."""

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

_PRETRAINING_STEPS = 8
"""Optimizer steps per phase of pre-training; the first one is not timed."""
_ALIGNMENT_STEPS = 4
_MAX_ACCUMULATION = 2
"""Maximum number of micro-batches per step; more take longer and measure nothing new."""
_QUESTIONS = 64
"""Maximum number of questions per task."""
SHORT_QUESTIONS = 2
"""Maximum number of questions per task in the evaluations that measure one-time costs."""


def dry_run_config(config: AdaptConfig, samples: Sequence[Sample], folder: Path) -> AdaptConfig:
    """Write the samples below a folder and return the settings of the dry run, whose store is in the same folder."""
    num_phases = len({stream.phase for stream in config.pretrain.method.streams()})
    micro_batch_rows = config.pretrain.micro_batch_rows * config.runtime.num_processes
    batch_rows = min(config.pretrain.batch_rows, micro_batch_rows * _MAX_ACCUMULATION)
    max_tokens = _PRETRAINING_STEPS * num_phases * batch_rows * config.mixture.row_tokens
    mixture = {"total_tokens": min(config.mixture.total_tokens, max_tokens)}
    pretrain = {"batch_rows": batch_rows, "log_steps": 1, "retention": RetentionConfig()}
    return config.model_copy(
        update={
            # the samples contain no held-out documents, so others have to be held out
            "data_seed": config.data_seed + 1,
            "curation": _write_sources(config.curation, samples, folder / "sources"),
            "mixture": config.mixture.model_copy(update=mixture),
            "pretrain": config.pretrain.model_copy(update=pretrain),
            "align": _few_samples(config.align),
            "evaluate": limit_questions(config.evaluate, _QUESTIONS),
            "runtime": config.runtime.model_copy(update={"store": str(folder / "store")}),
        }
    )


def limit_questions(config: EvaluateConfig, limit: int) -> EvaluateConfig:
    """Return the evaluation with at most `limit` questions per task, and at most one batch."""
    tasks = tuple(
        task.model_copy(update={"limit": min(task.limit or limit, limit, config.batch_size)}) for task in config.tasks
    )
    return config.model_copy(update={"tasks": tasks})


def _few_samples(config: AlignConfig) -> AlignConfig:
    """Return alignment with few steps of one epoch; selection still scores as many candidates as the samples have."""
    selection = config.selection
    few = {
        "num_instructions": min(selection.num_instructions, _ALIGNMENT_STEPS * config.sft.batch_size),
        "num_preferences": min(selection.num_preferences, _ALIGNMENT_STEPS * config.dpo.batch_size),
    }
    return AlignConfig(
        selection=selection.model_copy(update=few), sft=_one_epoch(config.sft), dpo=_one_epoch(config.dpo)
    )


def _one_epoch(config: Stage) -> Stage:
    return config.model_copy(update={"epochs": 1})


def _write_sources(config: CurationConfig, samples: Sequence[Sample], folder: Path) -> CurationConfig:
    """Write each sample to a file of its own and return the settings of curation for these files."""
    folder.mkdir(parents=True)
    sources = []
    for sample in samples:
        path = folder / f"{sample.name}.jsonl"
        names = TEXT_NAMES[sample.pool]
        rows = ({"id": record.id, **dict(zip(names, record.texts, strict=True))} for record in sample.records)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        sources.append(FilesSource(name=sample.name, pool=sample.pool, paths=(str(path),)))
    return config.model_copy(update={"sources": tuple(sources)})
