"""Losses of a few training steps, by the trainer of mixcpt and by a plain loop, for `families.py`.

The plain loop shares no code with the loss of mixcpt: it reads one document or one sentence at a time, without packing
and padding, and computes all logits with the model's own head.
"""

import copy
import json
import sys
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PrinterCallback, TrainingArguments

from benchmarks.family_models import MAX_TOKEN
from mixcpt.config import CptMethod, DiscMethod, LssdMethod, OptimizerConfig, StreamConfig
from mixcpt.config.pretrain import FullScopeConfig, LoraScopeConfig
from mixcpt.distill.model import read_alike
from mixcpt.train.data import MixtureRows
from mixcpt.train.optimizer import training_arguments
from mixcpt.train.scope import apply_scope
from mixcpt.train.teachers import AdapterOffTeacher, FrozenTeacher
from mixcpt.train.trainer import DistillationTrainer

METHODS = {"cpt": CptMethod(), "lssd": LssdMethod(), "disc": DiscMethod()}
SCOPES = {"full": FullScopeConfig(), "lora": LoraScopeConfig(rank=4, alpha=8)}
_STEPS, _RATE, _EPSILON, _CLIP = 3, 1e-3, 1e-4, 1.0
_LENGTHS = ((9, 5), (11,))
"""Tokens of the documents in every row of a step; the rest of a row is padding."""
_ROW_TOKENS = 16
_BOS, _PADDING = 1, 0
_ADAMW = OptimizerConfig(
    learning_rate=_RATE, schedule="constant", warmup_fraction=0, weight_decay=0, max_grad_norm=_CLIP
)


@cache
def documents() -> list[list[list[Tensor]]]:
    """Return the documents of every row of every step; each starts with the BOS token."""
    generator = torch.Generator().manual_seed(1)
    start = torch.tensor([_BOS])
    return [
        [
            [torch.cat([start, torch.randint(3, MAX_TOKEN, (length - 1,), generator=generator)]) for length in row]
            for row in _LENGTHS
        ]
        for _ in range(_STEPS)
    ]


def sentences(document: Tensor) -> list[tuple[int, int]]:
    """Return the start and the end of the two sentences of a document, without its BOS token."""
    return list(pairwise([1, len(document) // 2, len(document)]))


def product_losses(base: Any, method: str, scope: str, folder: Path) -> list[float]:
    """Return the loss of every step of the trainer of mixcpt on packed rows; `folder` is empty."""
    student = apply_scope(copy.deepcopy(base), SCOPES[scope], seed=0)
    streams = METHODS[method].streams()
    rows = MixtureRows(_write_mixture(folder, is_pair=streams[0].view != "text"), len(_LENGTHS))
    teacher: FrozenTeacher | AdapterOffTeacher | None = None
    if streams[0].needs_teacher and scope == "lora":
        teacher = AdapterOffTeacher(student, bf16=False)
    elif streams[0].needs_teacher:
        frozen = copy.deepcopy(base)
        read_alike(student, frozen)
        teacher = FrozenTeacher(frozen)
    arguments = training_arguments(
        _ADAMW, folder=folder / "checkpoints", seed=0, micro_batch_size=len(_LENGTHS), log_steps=100
    )
    arguments |= {"save_strategy": "no", "train_sampling_strategy": "sequential", "remove_unused_columns": False}
    trainer = _Recorder(
        student, TrainingArguments(**arguments), rows, streams=streams, schedule=_ADAMW, teacher=teacher
    )
    trainer.remove_callback(PrinterCallback)
    trainer.optimizer = _optimizer(student)
    trainer.train()
    return trainer.losses


class _Recorder(DistillationTrainer):
    """The trainer, with a record of its losses."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.losses: list[float] = []
        super().__init__(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss.item())
        return loss


def _write_mixture(folder: Path, *, is_pair: bool) -> Path:
    """Write the documents as the file of a mixture of one stream, and return the folder."""
    rows = [row for step in documents() for row in step]
    columns = [_pair_columns(row) if is_pair else _text_columns(row) for row in rows]
    table = {name: pa.array([values[name] for values in columns], pa.list_(pa.int64())) for name in columns[0]}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), folder / "rows-0.parquet")
    source = {"id": 0, "name": "documents", "pool": "domain", "documents": 0, "unique_tokens": 0, "tokens": 0}
    counts = {"num_rows": len(rows), "total_tokens": 0, "scored_tokens": 0, "padding_tokens": 0}
    view = "split_contexts" if is_pair else "text"
    stream = {"file": "rows-0.parquet", "view": view, "form": "text", "phase": 0, "sources": [], "pool_targets": {}}
    account = {"row_tokens": _ROW_TOKENS, "fill_fraction": 1.0, "sources": [source], "streams": [stream | counts]}
    (folder / "accounting.json").write_text(json.dumps(account | counts))
    return folder


def _text_columns(row: list[Tensor]) -> dict[str, list[int]]:
    """Return the columns of a row that teacher and student both read."""
    ids, positions = _packed(row)
    num_padding = _ROW_TOKENS - len(torch.cat(row))
    filled = _ROW_TOKENS - num_padding
    labels = [token if position > 0 else -100 for token, position in zip(ids, positions, strict=True)]
    return {
        "input_ids": ids,
        "position_ids": positions,
        "labels": labels[:filled] + [-100] * num_padding,
        "source_ids": [0] * filled + [-1] * num_padding,
        "token_index": list(range(filled)) + [-1] * num_padding,
    }


def _pair_columns(row: list[Tensor]) -> dict[str, list[int]]:
    """Return the columns of a row that only the teacher reads, and of the sentences that the student reads."""
    ids, positions = _packed(row)
    columns: dict[str, list[int]] = {name: [] for name in ("student_ids", "student_labels", "student_position_ids")}
    index, offset = [], 0
    for document in row:
        for start, end in sentences(document):
            tokens = document[start:end].tolist()
            columns["student_ids"] += [_BOS, *tokens]
            columns["student_labels"] += [-100, *tokens]
            columns["student_position_ids"] += range(len(tokens) + 1)
            index += [-1, *range(offset + start, offset + end)]
        offset += len(document)
    sources = [0] * len(index)
    return {
        "input_ids": ids,
        "position_ids": positions,
        **columns,
        "student_source_ids": sources,
        "teacher_index": index,
    }


def _packed(row: list[Tensor]) -> tuple[list[int], list[int]]:
    """Return tokens and positions of a row with its padding."""
    num_padding = _ROW_TOKENS - sum(map(len, row))
    positions = [position for document in row for position in range(len(document))]
    ids = np.concatenate([document.numpy() for document in row]).tolist()
    return ids + [_PADDING] * num_padding, positions + list(range(num_padding))


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Text that the student reads, and its place in the text that the teacher reads."""

    student: Tensor
    teacher: Tensor
    start: int
    """Index of the student's second token, the first that is scored, in the teacher's text."""


def plain_losses(base: Any, method: str, scope: str) -> list[float]:
    """Return the loss of every step of the plain loop."""
    student, teacher = apply_scope(copy.deepcopy(base), SCOPES[scope], seed=0).train(), copy.deepcopy(base).eval()
    (stream,) = METHODS[method].streams()
    optimizer, losses = _optimizer(student), []
    for step in documents():
        optimizer.zero_grad()
        loss = _step_loss(student, teacher, _parts(step, stream), stream)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), _CLIP)
        optimizer.step()
        losses.append(loss.item())
    return losses


def _parts(step: list[list[Tensor]], stream: StreamConfig) -> list[_Part]:
    texts = [document for row in step for document in row]
    if stream.view == "text":
        return [_Part(student=text, teacher=text, start=1) for text in texts]
    bos = torch.tensor([_BOS])
    return [
        _Part(student=torch.cat([bos, text[start:end]]), teacher=text, start=start)
        for text in texts
        for start, end in sentences(text)
    ]


def _step_loss(student: Any, teacher: Any, parts: list[_Part], stream: StreamConfig) -> Tensor:
    """Return the mean loss over all scored tokens, and the balancing loss of experts."""
    total, routers = torch.zeros(()), []
    for part in parts:
        output = student(input_ids=part.student[None], use_cache=False)
        logits, labels = output.logits[0, :-1], part.student[1:]
        total = total + stream.ce_weight * functional.cross_entropy(logits, labels, reduction="sum")
        if stream.needs_teacher:
            with torch.no_grad():
                known = teacher(input_ids=part.teacher[None], use_cache=False).logits[0]
            known = known[part.start - 1 : part.start - 1 + len(labels)]
            total = total + stream.kl_weight * _divergence(logits, known, labels, stream)
        routers.append(getattr(output, "router_logits", None))
    total = total / sum(len(part.student) - 1 for part in parts)
    return total + _balance(teacher, routers) if all(routers) else total


def _divergence(logits: Tensor, known: Tensor, labels: Tensor, stream: StreamConfig) -> Tensor:
    """Return T^2 KL(q || p); for `swap`, q has the probabilities of its first choice and the true token swapped."""
    q = (known / stream.temperature).softmax(dim=1)
    if stream.transform == "swap":
        index, top = labels[:, None], q.argmax(dim=1, keepdim=True)
        q_label, q_top = q.gather(1, index), q.gather(1, top)
        q = q.scatter(1, top, q_label).scatter(1, index, q_top)
    log_p = (logits / stream.temperature).log_softmax(dim=1)
    return stream.temperature**2 * (torch.xlogy(q, q) - q * log_p).sum()


def _balance(model: Any, routers: list[Any]) -> Tensor | float:
    """Return the balancing loss over the tokens of all texts, if the settings of the model turn it on."""
    config = model.config.get_text_config()
    function = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
    if not getattr(config, "output_router_logits", False) or function is None:
        return 0.0
    layers = tuple(torch.cat(layer) for layer in zip(*routers, strict=True))
    loss: Tensor = function(layers, model.num_experts, model.num_experts_per_tok)
    return config.router_aux_loss_coef * loss


def _optimizer(model: Any) -> torch.optim.Optimizer:
    """Return AdamW with an epsilon above rounding errors, so that they do not decide the sign of an update."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.AdamW(weights, lr=_RATE, eps=_EPSILON, weight_decay=0)
