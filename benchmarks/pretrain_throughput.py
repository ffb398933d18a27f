"""Compares whole training steps of plain `Trainer` with ours, as a fraction of the speed that the operations allow.

    python benchmarks/pretrain_throughput.py [--rounds 3] [--steps 6] [--shape 39m|8b]

A teacher needs operations that no implementation can avoid, so each variant is compared with its ceiling (N weights):

    cpt                 6 N, as plain training                       ceiling 1
    lssd, frozen        6 N + 2 N of the teacher                     6 / 8
    lssd, adapter_off   4 N + 2 N, against plain LoRA of 4 N         4 / 6
    lssd, cached        6 N; with the cache written once, E epochs   1; 6 E / (6 E + 2)
    disc                2 N + 6 N f, f the student's share of tokens 6 / (2 + 6 f)

All variants read rows of 512 tokens with documents that do not see each other; plain Trainer computes full logits. The
shape 8b (a GPU of 80 GB) runs the variants with LoRA only.
"""

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import in_own_process, in_turn, publish
from transformers import Trainer, TrainingArguments
from workload import BATCH_ROWS, ROW_TOKENS, StepTimer, mixture_of

from mixcpt.config import (
    AdapterOffTeacherConfig,
    CachedTeacherConfig,
    CptMethod,
    DiscMethod,
    LoraScopeConfig,
    LssdMethod,
    PretrainConfig,
)
from mixcpt.distill.model import CausalModel
from mixcpt.distill.teacher_cache import TeacherCache
from mixcpt.distill.teacher_writer import cache_teacher
from mixcpt.mixture.account import MixtureAccount
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import NullTracker
from mixcpt.train import teachers
from mixcpt.train.costs import peak_memory_bytes
from mixcpt.train.data import MixtureRows
from mixcpt.train.optimizer import training_arguments
from mixcpt.train.scope import apply_scope
from mixcpt.train.trainer import DistillationTrainer

PRECISION = "bf16" if torch.cuda.is_available() else "fp32"
_TEACHER_TYPE = "bfloat16" if PRECISION == "bf16" else "float32"
EPOCHS = 3
"""Epochs over which the time for writing the cache is distributed."""
VARIANTS: dict[str, PretrainConfig] = {
    "plain": PretrainConfig(method=CptMethod()),
    "plain LoRA": PretrainConfig(method=CptMethod(), scope=LoraScopeConfig()),
    "cpt": PretrainConfig(method=CptMethod()),
    "lssd_frozen": PretrainConfig(method=LssdMethod()),
    "lssd_adapter_off": PretrainConfig(method=LssdMethod(), scope=LoraScopeConfig(), teacher=AdapterOffTeacherConfig()),
    "lssd_cached": PretrainConfig(method=LssdMethod(), teacher=CachedTeacherConfig()),
    "disc": PretrainConfig(method=DiscMethod()),
}


def run(name: str, steps: int, shape: str) -> dict[str, float]:
    """Train one variant; return tokens per second of the median step, peak memory and figures for the ceiling."""
    config = VARIANTS[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base, mixture = mixture_of(folder, config, steps, shape)
        rows = MixtureRows(mixture.directory, BATCH_ROWS)
        timer = StepTimer()
        arguments = TrainingArguments(
            **training_arguments(
                config.optimizer,
                folder=folder / "checkpoints",
                seed=0,
                micro_batch_size=BATCH_ROWS,
                precision=PRECISION,
                checkpoint_steps=10**6,
            ),
            max_steps=steps + 2,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
        )
        student = apply_scope(load_model(base), config.scope, seed=0)
        cache_speed = 0.0
        trainer: Trainer
        if name.startswith("plain"):
            trainer = Trainer(student, arguments, train_dataset=rows, data_collator=plain_batch)  # type: ignore[arg-type]
        else:
            teacher, cache_speed = teacher_of(config, student, base, mixture=mixture, folder=folder)
            trainer = DistillationTrainer(
                student,
                arguments,
                rows,
                streams=config.method.streams(),
                schedule=config.optimizer,
                teacher=teacher,
            )
        trainer.add_callback(timer)
        trainer.train()
        teacher_tokens = sum(stream.num_tokens for stream in rows.streams)
        student_share = sum(stream.student_tokens for stream in rows.streams) / teacher_tokens
    return {
        "tokens_per_second": BATCH_ROWS * ROW_TOKENS / median(timer.timed),
        "peak_bytes": peak_memory_bytes(),
        "student_share": student_share,
        "cache_tokens_per_second": cache_speed,
    }


def teacher_of(
    config: PretrainConfig, student: CausalModel, base: ModelRef, *, mixture: ArtifactRef, folder: Path
) -> tuple[teachers.TeacherSource | None, float]:
    """Return the teacher of a variant, and the tokens per second of writing its cache (0 without a cache)."""
    if config.method.kind == "cpt":
        return None, 0.0
    if config.teacher.kind == "adapter_off":
        return teachers.AdapterOffTeacher(student, bf16=PRECISION == "bf16"), 0.0
    if config.teacher.kind == "frozen":
        return teachers.FrozenTeacher(load_model(base, dtype=_TEACHER_TYPE)), 0.0
    started = time.perf_counter()
    cache = cache_teacher(
        config.teacher,
        mixture,
        base,
        precision=PRECISION,
        max_tokens=ROW_TOKENS,
        store=ArtifactStore(folder / "cache"),
        tracker=NullTracker(),
    )
    speed = cache.record["metrics"]["tokens"] / (time.perf_counter() - started)
    digest = MixtureAccount.of(mixture).tokens_digest
    vocab = student.get_output_embeddings().weight.shape[0]
    opened = TeacherCache.open(cache, tokens_digest=digest, teacher_digest=base.digest, vocab_size=vocab)
    return teachers.CachedTeacher(opened), speed


def plain_batch(rows: list[Any]) -> dict[str, torch.Tensor]:
    """Return a batch of rows for a plain `Trainer`, without a mask, so that documents do not see each other."""
    return {
        name: torch.stack([torch.from_numpy(row.columns[name].astype("int64")) for row in rows])
        for name in ("input_ids", "labels", "position_ids")
    } | {"use_cache": False}  # type: ignore[dict-item]


def ceiling(name: str, figures: dict[str, float]) -> float:
    """Return the maximum speed of a variant as a fraction of the speed of plain training."""
    return {
        "cpt": 1.0,
        "lssd_frozen": 6 / 8,
        "lssd_adapter_off": 4 / 6,
        "lssd_cached": 1.0,
        "disc": 6 / (2 + 6 * figures["student_share"]),
    }[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds; the table shows medians")
    parser.add_argument("--steps", type=int, default=6, help="number of timed steps per run")
    parser.add_argument("--shape", choices=["39m", "8b"], default="39m")
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(run(arguments.variant, arguments.steps, arguments.shape)))
        return
    names = [name for name in VARIANTS if arguments.shape == "39m" or isinstance(VARIANTS[name].scope, LoraScopeConfig)]

    def measured(name: str) -> dict[str, Any]:
        options = ["--steps", str(arguments.steps), "--shape", arguments.shape]
        return in_own_process(__file__, ["--variant", name, *options])

    figures_of = in_turn(arguments.rounds, {name: partial(measured, name) for name in names})
    rows, fractions = [], {}
    for name, figures in figures_of.items():
        is_lora = isinstance(VARIANTS[name].scope, LoraScopeConfig)
        plain = figures_of["plain LoRA" if is_lora else "plain"]
        relative = figures["tokens_per_second"] / plain["tokens_per_second"]
        highest = 1.0 if name.startswith("plain") else ceiling(name, figures)
        fractions[name] = relative / highest
        peak = f"{figures['peak_bytes'] / 2**30:.2f} GiB"
        cells = [f"{figures['tokens_per_second']:,.0f}", f"{relative:.2f}", f"{highest:.2f}", f"{fractions[name]:.2f}"]
        rows.append([name, *cells, peak])
    if "lssd_cached" in figures_of:
        rows.append(amortised(figures_of, fractions))
    columns = ["variant", "tokens/s", "of plain", "ceiling", "fraction of ceiling", "peak memory"]
    device = "gpu" if torch.cuda.is_available() else "cpu"
    name = f"pretrain_throughput-{arguments.shape}-{device}"
    publish(name, columns, rows, {"fraction_of_ceiling": fractions}, rounds=arguments.rounds)


def amortised(figures_of: dict[str, dict[str, float]], fractions: dict[str, float]) -> list[str]:
    """Add the fraction of the cached teacher with the time for its cache divided among the epochs; return its row."""
    cached = figures_of["lssd_cached"]
    per_token = EPOCHS / cached["tokens_per_second"] + 1 / cached["cache_tokens_per_second"]
    relative = EPOCHS / per_token / figures_of["plain"]["tokens_per_second"]
    highest = 6 * EPOCHS / (6 * EPOCHS + 2)
    name = f"lssd_cached_{EPOCHS}_epochs"
    fractions[name] = relative / highest
    return [name, "", f"{relative:.2f}", f"{highest:.2f}", f"{fractions[name]:.2f}", ""]


if __name__ == "__main__":
    sys.exit(main())
