"""Whole training steps: plain `Trainer` against ours, as a fraction of what the operations allow.

    python benchmarks/pretrain_throughput.py [--rounds 3] [--steps 6] [--shape 39m|8b]

A teacher costs operations that no implementation can avoid, so each variant is compared with its ceiling (N weights):

    cpt                 6 N, as plain training                       ceiling 1
    lssd, frozen        6 N + 2 N of the teacher                     6 / 8
    lssd, adapter_off   4 N + 2 N, against plain LoRA of 4 N         4 / 6
    lssd, cached        6 N; with the cache written once, E epochs   1; 6 E / (6 E + 2)
    disc                2 N + 6 N f, f the student's share of tokens 6 / (2 + 6 f)

All read rows of 512 tokens with documents that do not see each other; plain Trainer computes full logits. The shape 8b
(a GPU of 80 GB) runs the variants with LoRA alone.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import in_own_process, in_turn, publish
from mixcpt.train.streams import Stream
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
from mixcpt.distill.teacher_cache import TeacherCache
from mixcpt.distill.teacher_writer import cache_teacher
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import load_model
from mixcpt.store.spool import NullTracker
from mixcpt.train import teachers
from mixcpt.train.arguments import training_arguments
from mixcpt.train.data import MixtureRows
from mixcpt.train.scope import apply_scope
from mixcpt.train.trainer import DistillationTrainer

PRECISION = "bf16" if torch.cuda.is_available() else "fp32"
_TEACHER_TYPE = "bfloat16" if PRECISION == "bf16" else "float32"
EPOCHS = 3
"""For the cached teacher whose writing is counted."""
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
    """Returns tokens per second of the median step, and the peak of memory."""
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
        written = 0.0
        trainer: Trainer
        if name.startswith("plain"):
            trainer = Trainer(student, arguments, train_dataset=rows, data_collator=plain_batch)  # type: ignore[arg-type]
        else:
            teacher: Any = None
            if config.teacher.kind == "adapter_off":
                teacher = teachers.AdapterOffTeacher(student, bf16=PRECISION == "bf16")
            elif config.teacher.kind == "cached":
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
                written = cache.record["metrics"]["tokens"] / (time.perf_counter() - started)
                digest = json.loads(mixture.file("accounting.json").read_text())["tokens_digest"]
                vocab = student.get_output_embeddings().weight.shape[0]
                teacher = teachers.CachedTeacher(
                    TeacherCache.open(cache, tokens_digest=digest, teacher_digest=base.digest, vocab_size=vocab)
                )
            elif config.method.kind != "cpt":
                teacher = teachers.FrozenTeacher(load_model(base, dtype=_TEACHER_TYPE))
            streams = [Stream.of(stream) for stream in config.method.streams()]
            trainer = DistillationTrainer(
                student, arguments, rows, streams=streams, schedule=config.optimizer, teacher=teacher
            )
        trainer.add_callback(timer)
        trainer.train()
        share = sum(stream.student_tokens for stream in rows.streams) / sum(s.num_tokens for s in rows.streams)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 1024 * _resident_kibibytes()
    speed = BATCH_ROWS * ROW_TOKENS / median(timer.timed)
    return {"tokens_per_second": speed, "peak_bytes": peak, "student_share": share, "cache_tokens_per_second": written}


def plain_batch(rows: list[Any]) -> dict[str, torch.Tensor]:
    """What a `Trainer` needs for rows whose documents do not see each other: no attention mask."""
    return {
        name: torch.stack([torch.from_numpy(row.columns[name].astype("int64")) for row in rows])
        for name in ("input_ids", "labels", "position_ids")
    } | {"use_cache": False}  # type: ignore[dict-item]


def _resident_kibibytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def ceiling(name: str, figures: dict[str, float]) -> float:
    """Returns the share of its plain peer's speed that the variant could reach."""
    return {
        "cpt": 1.0,
        "lssd_frozen": 6 / 8,
        "lssd_adapter_off": 4 / 6,
        "lssd_cached": 1.0,
        "disc": 6 / (2 + 6 * figures["student_share"]),
    }[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of a run")
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

    found = in_turn(arguments.rounds, {name: partial(measured, name) for name in names})
    rows, fractions = [], {}
    for name, figures in found.items():
        is_lora = isinstance(VARIANTS[name].scope, LoraScopeConfig)
        plain = found["plain LoRA" if is_lora else "plain"]
        relative = figures["tokens_per_second"] / plain["tokens_per_second"]
        highest = 1.0 if name.startswith("plain") else ceiling(name, figures)
        fractions[name] = relative / highest
        peak = f"{figures['peak_bytes'] / 2**30:.2f} GiB"
        cells = [f"{figures['tokens_per_second']:,.0f}", f"{relative:.2f}", f"{highest:.2f}", f"{fractions[name]:.2f}"]
        rows.append([name, *cells, peak])
    if "lssd_cached" in found:
        rows.append(amortised(found, fractions))
    columns = ["variant", "tokens/s", "of plain", "ceiling", "fraction of ceiling", "peak memory"]
    device = "gpu" if torch.cuda.is_available() else "cpu"
    name = f"pretrain_throughput-{arguments.shape}-{device}"
    publish(name, columns, rows, {"fraction_of_ceiling": fractions}, rounds=arguments.rounds)


def amortised(found: dict[str, dict[str, float]], fractions: dict[str, float]) -> list[str]:
    """Returns the row of the cached teacher with its writing shared by some epochs, and adds its fraction."""
    cached = found["lssd_cached"]
    per_token = EPOCHS / cached["tokens_per_second"] + 1 / cached["cache_tokens_per_second"]
    relative = EPOCHS / per_token / found["plain"]["tokens_per_second"]
    highest = 6 * EPOCHS / (6 * EPOCHS + 2)
    name = f"lssd_cached_{EPOCHS}_epochs"
    fractions[name] = relative / highest
    return [name, "", f"{relative:.2f}", f"{highest:.2f}", f"{fractions[name]:.2f}", ""]


if __name__ == "__main__":
    sys.exit(main())
