"""Compares our two forwards of DiSC with the published loop of two forwards per sentence, on twenty-sentence documents.

    python benchmarks/disc_forwards.py [--rounds 5]

Both use the same sentences and alternate in one process; their losses must agree to 1e-5.
"""

import argparse
import tempfile
import time
from itertools import chain, pairwise
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measure import publish
from torch import Tensor
from torch.nn import functional
from transformers import TrainingArguments
from workload import BATCH_ROWS, mixture_of

from mixcpt.config import DiscMethod, PretrainConfig
from mixcpt.store.models import load_model
from mixcpt.train.data import MixtureRows, Row
from mixcpt.train.optimizer import training_arguments
from mixcpt.train.teachers import FrozenTeacher
from mixcpt.train.trainer import DistillationTrainer

CONFIG = PretrainConfig(method=DiscMethod())
AGREEMENT = 1e-5


def loop(trainer: DistillationTrainer, rows: list[Row]) -> float:
    """Accumulate the gradients like the authors' code, one sentence at a time with full logits; return the loss."""
    temperature = trainer.streams[0].temperature
    parts = list(chain.from_iterable(_parts(row) for row in rows))
    num_scored = sum(len(scored) for _, _, _, scored in parts)
    total = 0.0
    for document, index, ids, scored in parts:
        with torch.no_grad():
            teacher = _logits(trainer.teacher.model, document)[index[scored] - 1]  # type: ignore[union-attr]
        student = _logits(trainer.model, ids)[scored - 1]
        log_q, log_p = (teacher / temperature).log_softmax(1), (student / temperature).log_softmax(1)
        loss = functional.kl_div(log_p, log_q, log_target=True, reduction="sum")
        loss = temperature**2 * loss / num_scored
        loss.backward()
        total += loss.item()
    return total


def two_forwards(trainer: DistillationTrainer, rows: list[Row]) -> float:
    """Accumulate the gradients like the trainer, and return the loss."""
    batch = trainer.data_collator(rows)
    scored = (batch["labels"][:, 1:] != -100).sum()
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=scored.unsqueeze(0))
    loss.backward()
    return loss.item()


def _logits(model: torch.nn.Module, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids.unsqueeze(0), use_cache=False).logits[0]
    return logits


def _parts(row: Row) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return for every part: the document up to its end, the index of its tokens there, its ids, its scored tokens."""
    columns = {name: torch.from_numpy(values.astype(np.int64)) for name, values in row.columns.items()}
    starts = [*(columns["student_position_ids"] == 0).nonzero().flatten().tolist(), len(columns["student_ids"])]
    parts = []
    for start, end in pairwise(starts):
        index = columns["teacher_index"][start:end]
        scored = (index >= 0).nonzero().flatten()
        last = int(index[scored[-1]])
        first = int((columns["position_ids"][: last + 1] == 0).nonzero().flatten()[-1])
        parts.append((columns["input_ids"][first : last + 1], index - first, columns["student_ids"][start:end], scored))
    return parts


def timed(work: object, trainer: DistillationTrainer, rows: list[Row]) -> tuple[float, float]:
    """Run one of the two functions; return its seconds and its loss."""
    trainer.model.zero_grad()
    started = time.perf_counter()
    loss = work(trainer, rows)  # type: ignore[operator]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base, mixture = mixture_of(folder, CONFIG, 4)
        rows = MixtureRows(mixture.directory, BATCH_ROWS)
        settings = training_arguments(CONFIG.optimizer, folder=folder, seed=0, micro_batch_size=BATCH_ROWS)
        student = load_model(base)
        generator = torch.Generator().manual_seed(1)
        for weight in student.parameters():
            weight.data += 0.02 * torch.randn(weight.shape, generator=generator)
        trainer = DistillationTrainer(
            student,
            TrainingArguments(**settings, train_sampling_strategy="sequential", remove_unused_columns=False),
            rows,
            streams=CONFIG.method.streams(),
            schedule=CONFIG.optimizer,
            teacher=FrozenTeacher(load_model(base)),
        )
        batch = [rows[index] for index in range(BATCH_ROWS)]
        num_documents = sum(int((row.columns["position_ids"] == 0).sum()) - 1 for row in batch)
        results: dict[str, list[tuple[float, float]]] = {"loop": [], "two forwards": []}
        for number in range(arguments.rounds + 1):
            for name, work in (("loop", loop), ("two forwards", two_forwards)):
                result = timed(work, trainer, batch)
                if number:  # the first round is a warm-up
                    results[name].append(result)
    timings = {name: list(zip(*pairs, strict=True)) for name, pairs in results.items()}
    seconds = {name: median(times) for name, (times, _) in timings.items()}
    losses = {name: losses[0] for name, (_, losses) in timings.items()}
    difference = abs(losses["loop"] / losses["two forwards"] - 1)
    if difference > AGREEMENT:
        raise SystemExit(f"the losses differ by {difference:.1e}: {losses}")
    speedup = seconds["loop"] / seconds["two forwards"]
    table = [[name, f"{seconds[name]:.2f} s", f"{losses[name]:.7f}"] for name in results]
    figures = {"speedup": speedup, "loss_difference": difference, "documents": num_documents}
    device = "gpu" if torch.cuda.is_available() else "cpu"
    publish(f"disc_forwards-{device}", ["", "time", "loss"], table, figures, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
