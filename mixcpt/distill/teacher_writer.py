"""The stage `cache`: the teacher reads every text of a mixture once, and what it says of each token is kept."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from mixcpt.config import CachedTeacherConfig
from mixcpt.distill.body import check_model, hidden_states
from mixcpt.distill.buffers import DEFAULT_BUDGET_BYTES
from mixcpt.distill.head import head_of
from mixcpt.distill.teacher_cache import CacheIdentity, CacheWriter, Entries
from mixcpt.errors import ArtifactError
from mixcpt.mixture.account import MixtureAccount
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import Tracker

_VERSION = 2
_BLOCK_TOKENS = 1 << 16
"""Tokens between two markers of progress."""
_BATCH_TOKENS = 1 << 12
_DEFAULT_WINDOW = 2048
_log = logging.getLogger("mixcpt.distill")


@dataclass(frozen=True)
class _Window:
    """A piece of a document that is read at once."""

    start: int
    """Index of its first token within the block."""
    length: int
    keep_from: int
    """Tokens before this one, counted from its start, are known with more context from the window before."""


@dataclass(frozen=True)
class _Work:
    """What a cache is made of, and where."""

    config: CachedTeacherConfig
    mixture: ArtifactRef
    tokens_digest: str
    teacher: ModelRef
    precision: str
    window: int
    folder: Path
    tracker: Tracker


def cache_teacher(
    config: CachedTeacherConfig,
    mixture: ArtifactRef,
    teacher: ModelRef,
    *,
    precision: str,
    max_tokens: int,
    store: ArtifactStore,
    tracker: Tracker,
) -> ArtifactRef:
    """Returns what `teacher` says of every token of the texts of a mixture; see `TeacherCache`.

    Documents are read whole, or in windows of `max_tokens` that overlap by half, each token from the window in which it
    has more before it. A teacher beside the student sees of a document that was split only the part in the row.

    Args:
        config: How much is kept.
        mixture: Of which only the texts count; another packing, seed or weight of theirs finds the same cache.
        teacher: The base model.
        precision: `fp32` or `bf16`.
        max_tokens: Longest input of the teacher; 0 where it names none.
        store: Where the result is published; interrupted work goes on from the last whole block.
        tracker: Is told the progress.

    Raises:
        ArtifactError: If the disk has not the space.
        ModelError: If the head of the model is not understood, or its predictions are not finite.
    """
    digest = MixtureAccount.of(mixture).tokens_digest
    window = max_tokens or _DEFAULT_WINDOW
    key = StageKey(
        "teacher",
        _VERSION,
        {"stage": "cache", "top_k": config.top_k, "precision": precision, "window": window},
        {"tokens": digest, "teacher": teacher.digest},
    )
    work = _Work(config, mixture, digest, teacher, precision, window, store.work_directory(key), tracker)
    lineage = {"mixture": mixture.digest, "teacher": teacher.name}
    ref = store.produce(key, lambda folder: _build(folder, work), lineage=lineage)
    store.discard_work(key)
    return ref


def _build(folder: Path, work: _Work) -> dict[str, Any]:
    model = _load(work.teacher, work.precision)
    ids = pq.read_table(work.mixture.file("tokens.parquet"), columns=["ids"]).column("ids").combine_chunks()
    lengths, tokens = ids.value_lengths().to_numpy(), ids.flatten().to_numpy()
    vocab = head_of(model).weight.shape[0]
    top_k = min(work.config.top_k, vocab)
    identity = CacheIdentity(work.tokens_digest, work.teacher.digest, vocab, len(tokens), top_k)
    _require_space(identity, work.folder)
    writer = CacheWriter(work.folder, identity)
    for first, of_block in _blocks(lengths):
        last = first + int(of_block.sum())
        if last > writer.num_tokens:
            entries = Entries.blank(last - first, identity)
            _fill(entries, model, tokens[first:last], _windows(of_block, work.window))
            writer.append(entries)
        work.tracker.log(last, {"teacher/tokens": float(last)}, total_steps=len(tokens))
    writer.publish(folder)
    return {"tokens": len(tokens), "top_k": top_k, "bytes": identity.num_bytes}


def _load(teacher: ModelRef, precision: str) -> PreTrainedModel:
    """Returns the teacher where it runs; checked in fp32, for the check would take the rounding of bf16 for a fault."""
    model: PreTrainedModel = load_model(teacher)
    check_model(model)
    if precision == "bf16":
        model = load_model(teacher, dtype="bfloat16")
    torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")
    return model


def _require_space(identity: CacheIdentity, folder: Path) -> None:
    needed = identity.num_bytes - sum(path.stat().st_size for path in folder.glob("*.npy"))
    _log.info("the cache of %s tokens will take %.1f MiB", f"{identity.num_tokens:,}", identity.num_bytes / 2**20)
    if needed > (free := shutil.disk_usage(folder).free):
        raise ArtifactError(
            f"the teacher's cache takes {needed / 2**30:.2f} GiB more, but {folder} has {free / 2**30:.2f} GiB left",
            "lower pretrain.teacher.top_k, make room, or set pretrain.teacher to frozen",
        )


def _blocks(lengths: Int[np.ndarray, " documents"]) -> Iterator[tuple[int, Int[np.ndarray, " block_documents"]]]:
    """Yields of each block the index of its first token, and the lengths of its documents."""
    first, begin, num_tokens = 0, 0, 0
    for end, length in enumerate(lengths.tolist(), start=1):
        num_tokens += length
        if num_tokens >= _BLOCK_TOKENS or end == len(lengths):
            yield first, lengths[begin:end]
            first, begin, num_tokens = first + num_tokens, end, 0


def _windows(lengths: Int[np.ndarray, " documents"], window: int) -> list[_Window]:
    """Returns the windows in which the documents of a block are read, the shortest first."""
    starts, step = np.cumsum(lengths) - lengths, max(window // 2, 1)
    windows = []
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        windows.append(_Window(start, min(length, window), 1))
        for begin in range(step, length - window + step, step):
            windows.append(_Window(start + begin, min(window, length - begin), window - step))
    readable = [each for each in windows if each.length > 1]  # the first token of a document is predicted by nothing
    return sorted(readable, key=lambda each: (each.length, each.start))


def _fill(entries: Entries, model: PreTrainedModel, tokens: Int[np.ndarray, " tokens"], windows: list[_Window]) -> None:
    """Writes the entries of a block, the longest windows first: what does not fit into memory fails at once."""
    while windows:
        longest = windows[-1].length
        batch = windows[-max(1, _BATCH_TOKENS // longest) :]
        del windows[-len(batch) :]
        ids = np.zeros((len(batch), longest), np.int64)
        for row, each in enumerate(batch):
            ids[row, : each.length] = tokens[each.start : each.start + each.length]
        _predict(entries, model, torch.from_numpy(ids).to(model.device), batch)


@torch.inference_mode()
def _predict(entries: Entries, model: PreTrainedModel, ids: Int[Tensor, "rows seq"], batch: list[_Window]) -> None:
    """Writes the entries of a batch; the padding behind a row's end is not seen by what stands before it."""
    kept = [np.arange(each.keep_from, each.length) for each in batch]
    rows = torch.from_numpy(np.repeat(np.arange(len(batch)), [len(of) for of in kept])).to(ids.device)
    columns = torch.from_numpy(np.concatenate(kept)).to(ids.device)
    places = np.concatenate([each.start + of for each, of in zip(batch, kept, strict=True)])
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    head, hidden = head_of(model), hidden_states(model, ids, positions)
    per_chunk = max(1, DEFAULT_BUDGET_BYTES // (2 * 4 * head.weight.shape[0]))
    for start in range(0, len(places), per_chunk):
        of = slice(start, start + per_chunk)
        row, column = rows[of], columns[of]
        buffer = torch.empty(len(row), head.weight.shape[0], dtype=torch.float32, device=ids.device)
        logits = head.logits(hidden[row, column - 1], out=buffer)
        entries.put(places[of], logits.log_softmax(dim=1), ids[row, column])
