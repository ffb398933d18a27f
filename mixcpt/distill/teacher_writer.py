"""The stage `cache`: the teacher reads every text of a mixture once, and its predictions are stored."""

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
from mixcpt.distill.buffers import DEFAULT_BUDGET_BYTES
from mixcpt.distill.keys import teacher_key, teacher_window
from mixcpt.distill.model import check_model, head_of, hidden_states, read_alike
from mixcpt.distill.teacher_cache import CacheIdentity, CacheWriter, Entries
from mixcpt.errors import ArtifactError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import Tracker

_BLOCK_TOKENS = 1 << 16
"""Minimum tokens between two saves of the progress."""
_BATCH_TOKENS = 1 << 12
_log = logging.getLogger("mixcpt.distill")


@dataclass(frozen=True)
class _Window:
    """A part of a document that the teacher reads at once."""

    start: int
    """Index of the first token within the block."""
    length: int
    keep_from: int
    """First token whose prediction is kept, counted from `start`. The previous window has more context for earlier
    tokens."""


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
    """Store the teacher's predictions of every token of a mixture's texts, and return the cache (see `TeacherCache`).

    Documents are read whole, or in windows that overlap by half; each prediction is kept from the window with more
    context. A teacher that runs during training has less context: it reads only the part of a document in the row.

    Only the texts of the mixture matter: another packing, order or weighting has the same cache. Interrupted work
    continues after the last complete block. `max_tokens` is the teacher's limit, 0 if its configuration has none.

    Raises:
        ArtifactError: If there is not enough disk space.
        ModelError: If the head of the model is not supported, or the predictions are not finite.
    """
    key = teacher_key(config, mixture, teacher, precision=precision, max_tokens=max_tokens)
    work, window = store.work_directory(key), teacher_window(max_tokens)

    def build(folder: Path) -> dict[str, Any]:
        model = _load(teacher, precision)
        vocab = len(head_of(model).weight)
        ids = pq.read_table(mixture.file("tokens.parquet"), columns=["ids"]).column("ids").combine_chunks()
        lengths, tokens = ids.value_lengths().to_numpy(), ids.flatten().to_numpy()
        identity = CacheIdentity(
            tokens_digest=key.inputs["tokens"],
            teacher_digest=teacher.digest,
            vocab_size=vocab,
            num_tokens=len(tokens),
            top_k=min(config.top_k, vocab),
        )
        _require_space(identity, work)
        writer = CacheWriter(work, identity)
        for first, block_lengths in _blocks(lengths):
            last = first + int(block_lengths.sum())
            if last > writer.num_tokens:
                entries = Entries.blank(last - first, identity)
                _fill(entries, model, tokens[first:last], windows=_windows(block_lengths, window))
                writer.append(entries)
            tracker.log(last, {"teacher/tokens": float(last)}, total_steps=len(tokens))
        writer.publish(folder)
        return {"tokens": len(tokens), "top_k": identity.top_k, "bytes": identity.num_bytes}

    ref = store.produce(key, build, lineage={"mixture": mixture.digest, "teacher": teacher.name})
    store.discard_work(key)
    return ref


def _load(teacher: ModelRef, precision: str) -> PreTrainedModel:
    """Load the teacher onto its device. The check runs in fp32, because it mistakes rounding in bf16 for a leak."""
    model: PreTrainedModel = load_model(teacher)
    check_model(model)
    if precision == "bf16":
        checked, model = model, load_model(teacher, dtype="bfloat16")
        read_alike(checked, model)
    torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")
    return model


def _require_space(identity: CacheIdentity, folder: Path) -> None:
    """Raise `ArtifactError` if the disk has no space for the rest of the cache."""
    needed = identity.num_bytes - sum(path.stat().st_size for path in folder.glob("*.npy"))
    _log.info("the cache of %s tokens will take %.1f MiB", f"{identity.num_tokens:,}", identity.num_bytes / 2**20)
    if needed > (free := shutil.disk_usage(folder).free):
        raise ArtifactError(
            f"the teacher's cache needs {needed / 2**30:.2f} GiB more, but {folder} has {free / 2**30:.2f} GiB left",
            "lower pretrain.teacher.top_k, free disk space, or set pretrain.teacher to frozen",
        )


def _blocks(lengths: Int[np.ndarray, " documents"]) -> Iterator[tuple[int, Int[np.ndarray, " block_documents"]]]:
    """Yield every block: the index of its first token, and the lengths of its documents."""
    first, begin, num_tokens = 0, 0, 0
    for end, length in enumerate(lengths.tolist(), start=1):
        num_tokens += length
        if num_tokens >= _BLOCK_TOKENS or end == len(lengths):
            yield first, lengths[begin:end]
            first, begin, num_tokens = first + num_tokens, end, 0


def _windows(lengths: Int[np.ndarray, " documents"], window: int) -> list[_Window]:
    """Return the windows of a block's documents, the shortest first."""
    starts, step = np.cumsum(lengths) - lengths, max(window // 2, 1)
    windows = []
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        windows.append(_Window(start, min(length, window), keep_from=1))
        for begin in range(step, length - window + step, step):
            windows.append(_Window(start + begin, min(window, length - begin), keep_from=window - step))
    readable = [part for part in windows if part.length > 1]  # a document's first token has no prediction
    return sorted(readable, key=lambda part: (part.length, part.start))


def _fill(
    entries: Entries, model: PreTrainedModel, tokens: Int[np.ndarray, " tokens"], *, windows: list[_Window]
) -> None:
    """Write the entries of a block, the longest windows first: if memory is too small, this fails at once."""
    while windows:
        longest = windows[-1].length
        batch = windows[-max(1, _BATCH_TOKENS // longest) :]
        del windows[-len(batch) :]
        ids = np.zeros((len(batch), longest), np.int64)
        for row, part in enumerate(batch):
            ids[row, : part.length] = tokens[part.start : part.start + part.length]
        _predict(entries, model, torch.from_numpy(ids).to(model.device), batch=batch)


@torch.inference_mode()
def _predict(entries: Entries, model: PreTrainedModel, ids: Int[Tensor, "rows seq"], *, batch: list[_Window]) -> None:
    """Write the entries of a batch. Padding follows a row's tokens, so causal attention hides it from them."""
    device = ids.device
    # row and column of each kept token in the batch, and its index in the block
    kept = [np.arange(part.keep_from, part.length) for part in batch]
    rows = torch.from_numpy(np.repeat(np.arange(len(batch)), [len(kept_columns) for kept_columns in kept])).to(device)
    columns = torch.from_numpy(np.concatenate(kept)).to(device)
    places = np.concatenate([part.start + kept_columns for part, kept_columns in zip(batch, kept, strict=True)])
    positions = torch.arange(ids.shape[1], device=device).expand_as(ids)
    head, hidden = head_of(model), hidden_states(model, ids, positions)
    vocab = head.weight.shape[0]
    tokens_per_chunk = max(1, DEFAULT_BUDGET_BYTES // (2 * torch.float32.itemsize * vocab))  # logits and log-softmax
    for start in range(0, len(places), tokens_per_chunk):
        chunk = slice(start, start + tokens_per_chunk)
        row, column = rows[chunk], columns[chunk]
        # the state at column - 1 predicts the token at column
        buffer = torch.empty(len(row), vocab, dtype=torch.float32, device=device)
        logits = head.logits(hidden[row, column - 1], out=buffer)
        entries.put(places[chunk], logits.log_softmax(dim=1), ids[row, column])
