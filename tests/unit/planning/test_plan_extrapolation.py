"""Extrapolation of a dry run, against numbers computed by hand; and the settings of a dry run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mixcpt.config import AdaptConfig, PretrainConfig
from mixcpt.planning.dry_run import COLD_EVALUATION, SHORT_EVALUATION, DryRun, MeasuredStage, dry_run_config
from mixcpt.planning.extrapolation import extrapolate, measured_memory, measured_start_seconds
from mixcpt.planning.load import Load, count_load
from mixcpt.records.plan import Device, Memory, StagePlan
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import resolve_model

CPU = Device(
    name="cpu",
    count=1,
    memory_bytes=2**34,
    peak_flops=1e11,
    fp32_flops=1e11,
    bytes_per_second=1e10,
    utilisation=0.6,
    is_here=True,
)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """The demo's defaults: 440 steps of 8 rows of 256 tokens, a checkpoint every 100, 200 and 100 samples of 16."""
    config = AdaptConfig()
    return count_load(config, resolve_model(config.base), ArtifactStore(tmp_path_factory.mktemp("store")))


@pytest.fixture
def small(load: Load, tmp_path: Path) -> AdaptConfig:
    return dry_run_config(load.config, load.samples, tmp_path)


def test_pretraining_pays_once_by_step_and_by_checkpoint(load: Load, small: AdaptConfig) -> None:
    trained = MeasuredStage(
        seconds=20.0,
        seconds_after_training=2.0,
        step_seconds=(1.0,) * 7,
        metrics={"steps": 8, "flops": 8, "peak_memory_bytes": 500_000_000},
    )
    (extrapolated,) = extrapolate(
        (StagePlan(stage="pretrained", seconds=1.0, steps=440),), load, DryRun(small, {"pretrain": trained})
    )
    # one-time cost 20 - 8 x 1, 440 steps, four checkpoints before the last one, three quarters of 2 s each
    assert extrapolated.seconds == pytest.approx(12 + 440 + 4 * 1.5)
    more_rows = 44 * (900_096 - 8 * 8 * 256)
    assert extrapolated.peak_memory_bytes == 500_000_000 + more_rows


def test_pretraining_of_longer_accumulation_takes_as_much_more(load: Load, small: AdaptConfig) -> None:
    config = load.config.model_copy(update={"pretrain": PretrainConfig(batch_rows=64, micro_batch_rows=8)})
    trained = MeasuredStage(
        seconds=8.0, step_seconds=(1.0,) * 7, metrics={"steps": 8, "flops": 8, "peak_memory_bytes": 1}
    )
    stage = StagePlan(stage="pretrained", seconds=1.0, steps=50)
    (extrapolated,) = extrapolate((stage,), replace(load, config=config), DryRun(small, {"pretrain": trained}))
    assert extrapolated.seconds == pytest.approx(50 * 8)


def test_dpo_pays_by_step_and_once_a_sample_for_the_reference(load: Load, small: AdaptConfig) -> None:
    trained = MeasuredStage(
        seconds=10.0,
        step_seconds=(2.0,),
        metrics={"steps": 2, "num_samples": 32, "train_seconds": 5.0, "peak_memory_bytes": 7},
    )
    (extrapolated,) = extrapolate(
        (StagePlan(stage="dpo", seconds=1.0, steps=7, rows=100),), load, DryRun(small, {"dpo": trained})
    )
    # one-time cost 10 - 2 x 2, 7 steps, and a third of a step's time per sample for 68 further samples
    assert extrapolated.seconds == pytest.approx(6 + 7 * 2 + (2 * 2 / 3) * 68 / 32)
    assert extrapolated.peak_memory_bytes == 7


def test_evaluation_pays_once_and_by_question(load: Load, small: AdaptConfig) -> None:
    names = [task.name for task in load.tasks]
    few = MeasuredStage(seconds=4.0, items=dict.fromkeys(names, 2))
    base = MeasuredStage(seconds=14.0, items=dict.fromkeys(names, 64))
    dry_run = DryRun(
        small,
        {
            COLD_EVALUATION: replace(few, seconds=9.0),
            SHORT_EVALUATION: few,
            "evaluate-base": base,
            "evaluate-pretrained": base,
        },
    )
    stages = tuple(StagePlan(stage=f"evaluation of {role}", seconds=1.0) for role in ("base", "final"))
    first, second = extrapolate(stages, load, dry_run)
    wanted = sum(task.items for task in load.tasks)
    assert second.seconds == pytest.approx(4 + 10 * wanted / (64 * len(names)))
    assert first.seconds == pytest.approx(second.seconds + 5)  # the first of its process imports
    assert wanted > 64 * len(names)


def test_start_counts_the_evaluations_two_processes(small: AdaptConfig) -> None:
    stages = {name: MeasuredStage(start_seconds=3.0) for name in ("curate", "pretrain", "sft")}
    stages[COLD_EVALUATION] = MeasuredStage(start_seconds=5.0)
    assert measured_start_seconds(DryRun(small, stages)) == 9 + 10


def test_measured_memory_adds_the_difference_to_the_process_on_cpu_and_to_activations_on_gpu() -> None:
    parts = Memory(
        stage="pretrained",
        parameters=10,
        gradients=10,
        optimizer=20,
        teacher=10,
        activations=40,
        head=10,
        process=600,
    )
    stage = StagePlan(stage="pretrained", seconds=1.0, peak_memory_bytes=850)
    on_cpu = measured_memory(parts, stage, CPU)
    assert (on_cpu.process, on_cpu.activations, on_cpu.total) == (750, 40, 850)
    on_gpu = measured_memory(parts, replace(stage, peak_memory_bytes=110), replace(CPU, name="h100"))
    assert (on_gpu.process, on_gpu.activations, on_gpu.total) == (0, 50, 110)


def test_dry_run_config_keeps_rows_teacher_and_optimizer(load: Load, small: AdaptConfig, tmp_path: Path) -> None:
    given, tried = load.config, small
    assert tried.mixture.total_tokens == 8 * 8 * 256
    assert tried.mixture.row_tokens == given.mixture.row_tokens
    assert (tried.pretrain.scope, tried.pretrain.teacher) == (given.pretrain.scope, given.pretrain.teacher)
    assert tried.pretrain.optimizer == given.pretrain.optimizer
    assert tried.pretrain.micro_batch_rows == given.pretrain.micro_batch_rows
    assert tried.align.selection.num_instructions == 4 * 16
    assert {task.limit for task in tried.evaluate.tasks} == {60, 64}  # one task asks 60 in all
    records = (tmp_path / "sources" / "world-preferences.jsonl").read_text().splitlines()
    assert len(records) == 600
    assert set(json.loads(records[0])) == {"id", "prompt", "chosen", "rejected"}
