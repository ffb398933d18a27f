"""Continual pre-training on a tiny model: packing, accumulation, resume, metrics and published files."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, TrainingArguments

from mixcpt.config import KlMethod, LssdMethod, Method, OptimizerConfig, PretrainConfig, StreamConfig
from mixcpt.errors import ConfigError, DataError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import NullTracker, Spool
from mixcpt.train.data import MixtureRows
from mixcpt.train.optimizer import training_arguments
from mixcpt.train.pretrain import pretrain
from mixcpt.train.teachers import FrozenTeacher
from mixcpt.train.trainer import DistillationTrainer
from tests.unit.train.mixtures import write_mixture


def stream_of(method: Method) -> StreamConfig:
    """Return the stream of a method with one stream."""
    (stream,) = method.streams()
    return stream


ROW_TOKENS, VOCAB, SOURCES = 24, 40, {"anatomy": "domain", "dialogues": "general"}
TIMES = {"train/seconds", "train/tokens_per_second"}
IGNORE = -100
CONFIG = PretrainConfig(batch_rows=4, micro_batch_rows=4, checkpoint_steps=3, log_steps=2)


class Interruption(Exception):
    pass


class DyingTracker:
    """Stands for a process that dies at its first metric from a given step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None) -> None:
        if step >= self.step:
            raise Interruption


def packed_rows(num_rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return rows of documents of 3 to 9 tokens; a shorter rest is padding."""
    random = np.random.default_rng(seed)
    ids = random.integers(4, VOCAB, (num_rows, ROW_TOKENS)).astype(np.int32)
    labels, positions, sources = ids.copy(), np.zeros_like(ids), np.zeros(ids.shape, np.int16)
    for row in range(num_rows):
        start = 0
        while start < ROW_TOKENS:
            length = min(int(random.integers(3, 10)), ROW_TOKENS - start)
            segment = np.s_[row, start : start + length]
            positions[segment] = np.arange(length)
            sources[segment] = random.integers(len(SOURCES))
            labels[row, start] = IGNORE
            if length < 3:
                ids[segment], labels[segment], sources[segment] = 3, IGNORE, -1
            start += length
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "source_ids": sources}


def mixture(store: ArtifactStore, num_rows: int = 26) -> ArtifactRef:
    def build(folder: Path) -> dict[str, int]:
        write_mixture(folder, packed_rows(num_rows), SOURCES)
        return {}

    return store.produce(StageKey("mixture", 1, {"num_rows": num_rows}), build)


def trainer_of(
    base: ModelRef, folder: Path, rows: MixtureRows, stream: StreamConfig, micro_batch_size: int, batch_size: int
) -> DistillationTrainer:
    """Return a trainer with one plain gradient step of size 1 per batch; student and teacher differ."""
    settings = OptimizerConfig(
        learning_rate=1.0, schedule="constant", warmup_fraction=0, weight_decay=0, max_grad_norm=0
    )
    arguments = training_arguments(
        settings,
        folder=folder,
        seed=0,
        micro_batch_size=micro_batch_size,
        accumulation_steps=batch_size // micro_batch_size,
    )
    student = load_model(base)
    torch.manual_seed(3)
    for weight in student.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return DistillationTrainer(
        student,
        TrainingArguments(
            **arguments | {"optim": "sgd"}, train_sampling_strategy="sequential", remove_unused_columns=False
        ),
        rows,
        streams=[stream],
        schedule=settings,
        teacher=FrozenTeacher(load_model(base)),
    )


def loss_of_separate_documents(trainer: DistillationTrainer, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mean objective over scored tokens, from full logits of separate documents, by autograd."""
    assert trainer.teacher is not None
    total, count, objective = torch.tensor(0.0, dtype=torch.float64), 0, trainer.streams[0]
    for ids, labels, positions in zip(batch["input_ids"], batch["labels"], batch["position_ids"], strict=True):
        borders = [*(positions == 0).nonzero().flatten().tolist(), len(ids)]
        for start, end in pairwise(borders):
            scored = labels[start + 1 : end] != IGNORE
            y = labels[start + 1 : end][scored]
            if len(y) == 0:
                continue
            document = ids[start:end].unsqueeze(0)
            s, z = (model(document).logits[0, :-1][scored].double() for model in (trainer.model, trainer.teacher.model))
            index, first = torch.arange(len(y)), z.argmax(1)
            if objective.transform == "swap":
                z[index, y], z[index, first] = z[index, first].clone(), z[index, y].clone()
            log_q, log_p = (torch.log_softmax(logits / objective.temperature, 1) for logits in (z.detach(), s))
            kl = objective.temperature**2 * (log_q.exp() * (log_q - log_p)).sum()
            ce = torch.nn.functional.cross_entropy(s, y, reduction="sum")
            total, count = total + objective.ce_weight * ce + objective.kl_weight * kl, count + len(y)
    return total / count


def weights_of(model: ArtifactRef) -> dict[str, Tensor]:
    return load_file(model.file("model") / "model.safetensors")


def history_of(model: ArtifactRef) -> list[dict[str, float]]:
    """Return the history without times and speeds."""
    steps: list[dict[str, float]] = json.loads(model.file("history.json").read_text())
    return [{name: value for name, value in step.items() if "second" not in name} for step in steps]


@pytest.mark.parametrize("method", [LssdMethod(alpha=0.3, temperature=2.0), KlMethod(kl_weight=0.5)])
def test_step_on_packed_rows_equals_a_step_on_separate_documents(
    tiny_model: ModelRef, tmp_path: Path, method: Method
) -> None:
    """Neither student nor teacher sees across documents, and the gradient is that of plain autograd."""
    rows = MixtureRows(write_mixture(tmp_path, packed_rows(4), SOURCES), 4)
    trainer = trainer_of(tiny_model, tmp_path, rows, stream_of(method), 4, 4)
    expected = loss_of_separate_documents(trainer, trainer.data_collator([rows[index] for index in range(4)]))
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    gradients = torch.autograd.grad(expected, list(trainer.model.parameters()))
    trainer.train()
    for (name, weight), gradient in zip(trainer.model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(weight.detach(), before[name] - gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_accumulated_micro_batches_give_the_weights_of_one_large_batch(
    tiny_model: ModelRef, tmp_path: Path, micro_batch_size: int
) -> None:
    columns = packed_rows(8)
    columns["labels"][1] = IGNORE  # a micro-batch in which nothing is scored
    columns["labels"][2, :20] = IGNORE
    rows = MixtureRows(write_mixture(tmp_path, columns, SOURCES), 8)
    objective = stream_of(LssdMethod(temperature=2.0))
    large, small = (trainer_of(tiny_model, tmp_path, rows, objective, size, 8) for size in (8, micro_batch_size))
    for trainer in (large, small):
        assert trainer.train().global_step == 1
    for expected, actual in zip(large.model.parameters(), small.model.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_blank_rows_of_the_last_batch_change_nothing(tiny_model: ModelRef, tmp_path: Path) -> None:
    path = write_mixture(tmp_path, packed_rows(5), SOURCES)
    objective = stream_of(LssdMethod())
    filled, exact = (
        trainer_of(tiny_model, tmp_path, MixtureRows(path, size), objective, size, size) for size in (8, 5)
    )
    assert len(filled.rows) == 8 and filled.rows.num_blank_rows == 3
    for trainer in (filled, exact):
        trainer.train()
    for expected, actual in zip(exact.model.parameters(), filled.model.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_mixture_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without rows"):
        MixtureRows(write_mixture(tmp_path, packed_rows(0), SOURCES), 4)


@pytest.fixture(scope="module")
def uninterrupted(tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> tuple[ArtifactRef, Spool]:
    """Seven steps on 26 rows, two of the last batch blank."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    store, spool = ArtifactStore(folder / "store"), Spool(folder / "spool.jsonl")
    return pretrain(CONFIG, mixture(store), tiny_model, seed=1, store=store, tracker=spool), spool


def test_pretrain_publishes_a_model_that_loads_with_its_tokenizer(
    uninterrupted: tuple[ArtifactRef, Spool], tiny_model: ModelRef
) -> None:
    folder = uninterrupted[0].file("model")
    assert (
        AutoTokenizer.from_pretrained(folder).chat_template
        == AutoTokenizer.from_pretrained(tiny_model.path).chat_template
    )
    changed = load_model(ModelRef.from_artifact(uninterrupted[0], "adapted"))
    assert any(
        not torch.equal(new, old)
        for new, old in zip(changed.parameters(), load_model(tiny_model).parameters(), strict=True)
    )
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True


def test_pretrain_records_what_the_training_was(uninterrupted: tuple[ArtifactRef, Spool], tiny_model: ModelRef) -> None:
    metrics = uninterrupted[0].record["metrics"]
    num_parameters = sum(weight.numel() for weight in load_model(tiny_model).parameters())
    assert metrics["steps"] == 7
    assert (metrics["rows"], metrics["blank_rows"], metrics["tokens"]) == (26, 2, 26 * ROW_TOKENS)
    assert metrics["num_parameters"] == num_parameters
    assert metrics["flops"] == 8 * num_parameters * metrics["tokens"]  # tied head: every weight counts
    assert metrics["train_seconds"] > 0 and metrics["peak_memory_bytes"] > 1e7
    assert metrics["final"]["train/loss"] == history_of(uninterrupted[0])[-1]["train/loss"]


def test_history_and_spool_hold_the_same_steps_each_once(uninterrupted: tuple[ArtifactRef, Spool]) -> None:
    model, spool = uninterrupted
    steps = json.loads(model.file("history.json").read_text())
    measured, _ = spool.read()
    assert [step["step"] for step in steps] == [2, 3, 4, 6, 7]  # every second step, and every checkpoint
    timeless = [{name: value for name, value in line.metrics.items() if name not in TIMES} for line in measured]
    assert [{"step": line.step, **metrics} for line, metrics in zip(measured, timeless, strict=True)] == steps
    assert all(set(line.metrics) > TIMES for line in measured)
    assert {line.total_steps for line in measured} == {7}


def test_measurements_per_source_add_up_to_the_totals(uninterrupted: tuple[ArtifactRef, Spool]) -> None:
    for step in history_of(uninterrupted[0]):
        counts = {name: step[f"train/{name}/scored_tokens"] for name in SOURCES if f"train/{name}/ce" in step}
        assert sum(counts.values()) == step["train/scored_tokens"]
        for metric in ("loss", "ce", "kl", "swap_rate", "teacher_accuracy"):
            mean = sum(step[f"train/{name}/{metric}"] * count for name, count in counts.items()) / sum(counts.values())
            assert mean == pytest.approx(step[f"train/{metric}"])
        assert step["train/loss"] == pytest.approx(0.5 * step["train/ce"] + 0.5 * step["train/kl"])
        assert step["train/learning_rate"] >= 0 and step["train/grad_norm"] > 0
    scored = (packed_rows(26)["labels"] != IGNORE).sum()
    assert sum(step["train/scored_tokens"] for step in history_of(uninterrupted[0])) == scored


@pytest.mark.parametrize(
    ("dies_at", "damage"), [(4, "nothing"), (7, "nothing"), (7, "truncated"), (7, "unmarked"), (2, "nothing")]
)
def test_interrupted_pretrain_resumes_to_the_same_weights_and_history(
    uninterrupted: tuple[ArtifactRef, Spool], tiny_model: ModelRef, tmp_path: Path, dies_at: int, damage: str
) -> None:
    store = ArtifactStore(tmp_path)
    rows = mixture(store)
    with pytest.raises(Interruption):
        pretrain(CONFIG, rows, tiny_model, seed=1, store=store, tracker=DyingTracker(dies_at))
    checkpoints = sorted(tmp_path.glob("work/model/*/checkpoints/checkpoint-*"))
    assert [path.name for path in checkpoints] == [f"checkpoint-{step}" for step in (3, 6) if step < dies_at]
    if damage == "truncated":
        weights = checkpoints[-1] / "optimizer.pt"
        weights.write_bytes(weights.read_bytes()[:-100])
    if damage == "unmarked":
        (checkpoints[-1] / "COMPLETE").unlink()
    spool = Spool(tmp_path / "spool.jsonl")
    resumed = pretrain(CONFIG, rows, tiny_model, seed=1, store=store, tracker=spool)
    expected = weights_of(uninterrupted[0])
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(resumed).items())
    assert history_of(resumed) == history_of(uninterrupted[0])
    resumed_from = {4: 3, 7: 3 if damage != "nothing" else 6, 2: 0}[dies_at]
    assert spool.read()[0][0].step > resumed_from  # nothing before the checkpoint was done again
    assert not list(tmp_path.glob("work/model/*/checkpoints"))


def test_finished_pretrain_is_not_computed_again(
    uninterrupted: tuple[ArtifactRef, Spool], tiny_model: ModelRef
) -> None:
    store = ArtifactStore(uninterrupted[0].directory.parents[1])
    again = pretrain(CONFIG, mixture(store), tiny_model, seed=1, store=store, tracker=DyingTracker(0))
    assert again == uninterrupted[0] and again.reused


def test_bf16_pretrain_learns_much_the_same(
    uninterrupted: tuple[ArtifactRef, Spool], tiny_model: ModelRef, tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path)
    config = CONFIG.model_copy(update={"precision": "bf16"})
    model = pretrain(config, mixture(store), tiny_model, seed=1, store=store, tracker=NullTracker())
    losses, exact = ([step["train/loss"] for step in history_of(ref)] for ref in (model, uninterrupted[0]))
    assert losses == pytest.approx(exact, rel=2e-3) and losses != exact
    assert {weight.dtype for weight in weights_of(model).values()} == {torch.float32}


def test_batch_that_micro_batches_do_not_divide_is_refused(tiny_model: ModelRef, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    config = PretrainConfig(batch_rows=6, micro_batch_rows=4)
    with pytest.raises(ConfigError, match="batch_rows"):
        pretrain(config, mixture(store), tiny_model, seed=1, store=store, tracker=NullTracker())
