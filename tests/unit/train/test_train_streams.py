"""One step of several streams and views, against the plain loop over documents and sentences."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import TrainingArguments

from mixcpt.config import DiscMethod, Method, OptimizerConfig, StreamsMethod, TalrMethod
from mixcpt.store.models import ModelRef, load_model
from mixcpt.train.data import MixtureRows
from mixcpt.train.optimizer import training_arguments
from mixcpt.train.teachers import FrozenTeacher
from mixcpt.train.trainer import DistillationTrainer
from tests.unit.mixture.test_views_pairs import ROW, curated, mixed, sentence

IGNORE = -100
SGD = OptimizerConfig(learning_rate=1.0, schedule="constant", warmup_fraction=0, weight_decay=0, max_grad_norm=0)


def trainer_of(model: ModelRef, folder: Path, method: Method, micro_batch: int, batch: int) -> DistillationTrainer:
    """Return a trainer of one plain gradient step; student and teacher differ."""
    draw = np.random.default_rng(3)
    documents = [" ".join(sentence(draw) for _ in range(draw.integers(3, 7))) for _ in range(30)]
    mixture = mixed(curated(folder / "corpus", {"documents": documents}), model, folder / "store", method)
    arguments = training_arguments(
        SGD,
        folder=folder,
        seed=0,
        micro_batch_size=micro_batch,
        accumulation_steps=batch // micro_batch,
        log_steps=1,
    )
    student = load_model(model)
    torch.manual_seed(3)
    for weight in student.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return DistillationTrainer(
        student,
        TrainingArguments(
            **arguments | {"optim": "sgd"},
            max_steps=1,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
        ),
        MixtureRows(mixture.directory, batch),
        streams=method.streams(),
        schedule=SGD,
        teacher=FrozenTeacher(load_model(model)),
    )


def loop_over_parts(trainer: DistillationTrainer, indices: range, number: int) -> Tensor:
    """Return the stream's mean loss from full logits, with two forwards per part, by autograd."""
    stream, total, count = trainer.streams[number], torch.tensor(0.0, dtype=torch.float64), 0
    temperature = stream.temperature
    teacher = trainer.teacher.model  # type: ignore[union-attr]
    for row in (trainer.rows[index] for index in indices):
        if row.stream != number or row.is_blank:
            continue
        of = {name: torch.from_numpy(values.astype(np.int64)) for name, values in row.columns.items()}
        starts = [*(of["student_position_ids"] == 0).nonzero().flatten().tolist(), len(of["student_ids"])]
        for start, end in pairwise(starts):
            index = of["teacher_index"][start:end]
            scored = (index >= 0).nonzero().flatten()
            document = (of["position_ids"][: index[scored[0]] + 1] == 0).nonzero().flatten()[-1]
            known = teacher(of["input_ids"][document : index[scored[-1]] + 1].unsqueeze(0)).logits[0]
            z = known[index[scored] - 1 - document].detach().double() / temperature
            own = trainer.model(of["student_ids"][start:end].unsqueeze(0)).logits[0]
            s = own[scored - 1].double() / temperature
            kl = functional.kl_div(s.log_softmax(1), z.log_softmax(1), log_target=True, reduction="sum")
            total, count = total + temperature**2 * kl, count + len(scored)
    return total / count


def texts_loss(trainer: DistillationTrainer, indices: range) -> Tensor:
    """Return the LSSD stream's mean loss from full logits of packed rows."""
    rows = [trainer.rows[index] for index in indices]
    batch = trainer.data_collator([row for row in rows if not row.is_pair])
    stream = trainer.streams[0]
    arguments = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "use_cache": False}
    y = functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
    scored = y != IGNORE
    s = trainer.model(**arguments).logits[scored].double()
    z = trainer.teacher.model(**arguments).logits[scored].detach().double()  # type: ignore[union-attr]
    y, index, top = y[scored], torch.arange(int(scored.sum())), z.argmax(1)
    z[index, y], z[index, top] = z[index, top].clone(), z[index, y].clone()
    kl = functional.kl_div(s.log_softmax(1), z.log_softmax(1), log_target=True, reduction="batchmean")
    return stream.ce_weight * functional.cross_entropy(s, y) + stream.kl_weight * kl


def assert_step(trainer: DistillationTrainer, expected: Tensor) -> None:
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    gradients = torch.autograd.grad(expected, list(trainer.model.parameters()))
    trainer.train()
    for (name, weight), gradient in zip(trainer.model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(weight.detach(), before[name] - gradient, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("parity", [False, True])
@pytest.mark.parametrize("micro_batch", [2, 8])
def test_two_forwards_of_disc_take_the_step_of_the_published_loop(
    tiny_model: ModelRef, tmp_path: Path, micro_batch: int, parity: bool
) -> None:
    trainer = trainer_of(tiny_model, tmp_path, DiscMethod(parity=parity), micro_batch, 8)
    assert_step(trainer, loop_over_parts(trainer, range(8), 0))


@pytest.mark.parametrize("micro_batch", [1, 4, 8])
def test_step_of_two_streams_is_the_weighted_sum_of_their_means(
    tiny_model: ModelRef, tmp_path: Path, micro_batch: int
) -> None:
    texts, documents = StreamsMethod().of
    method = StreamsMethod(of=(texts, documents.model_copy(update={"weight": 0.3})))
    trainer = trainer_of(tiny_model, tmp_path, method, micro_batch, 8)
    expected = texts_loss(trainer, range(8)) + 0.3 * loop_over_parts(trainer, range(8), 1)
    assert_step(trainer, expected)
    measured = next(log for log in trainer.state.log_history if "mixture/ce" in log)
    assert measured["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert measured["documents/kl"] > 0 and "documents/documents/kl" in measured


def test_talr_weighs_by_probability_over_the_median_document(tiny_model: ModelRef, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_model, tmp_path, TalrMethod(floor=0.36), 8, 8)
    batch = trainer.data_collator([trainer.rows[index] for index in range(8)])
    y = functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
    logits = trainer.model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    losses = functional.cross_entropy(logits.flatten(0, 1).double(), y.flatten(), reduction="none")
    segments = (batch["position_ids"].flatten() == 0).cumsum(0)
    scored = y.flatten() != IGNORE
    means = torch.stack([losses[scored & (segments == s)].mean() for s in segments[scored].unique()])
    weights = torch.exp(-losses / means.median()).clamp_min(0.36).detach()
    assert weights[scored].min() == 0.36 < weights[scored].max()
    assert_step(trainer, (weights * losses)[scored].sum() / scored.sum())


def test_teacher_reads_only_rows_of_streams_that_need_it(tiny_model: ModelRef, tmp_path: Path) -> None:
    plain, documents = StreamsMethod().of
    untaught = plain.model_copy(update={"ce_weight": 1.0, "kl_weight": 0.0})
    trainer = trainer_of(tiny_model, tmp_path, StreamsMethod(of=(untaught, documents)), 8, 8)
    rows = [trainer.rows[index] for index in range(8)]
    num_pairs = sum(row.is_pair for row in rows)
    batch = trainer.data_collator(rows)
    assert batch["teacher_input_ids"].shape == (num_pairs, ROW)
    only_texts = trainer.data_collator([row for row in rows if not row.is_pair])
    assert only_texts["teacher_input_ids"].shape == (1, ROW)  # one, so that all processes run their teacher
