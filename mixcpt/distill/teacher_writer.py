"""The stage `cache`: the teacher reads every text of a mixture once, and what it says of each token is kept."""

import json
import logging
import os
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

from mixcpt.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.config import CachedTeacher
from mixcpt.distill.body import check_model, hidden_states
from mixcpt.distill.head import head_of
from mixcpt.distill.loss import DEFAULT_BUDGET_BYTES
from mixcpt.distill.teacher_cache import CacheArrays, CacheIdentity
from mixcpt.errors import ArtifactError
from mixcpt.models import ModelRef, load_model
from mixcpt.tracking import Tracker

_VERSION = 1
_BLOCK_TOKENS = 1 << 16
"""Tokens between two markers of progress."""
_BATCH_TOKENS = 1 << 12
_DEFAULT_WINDOW = 2048
_PROGRESS = "progress.json"
_log = logging.getLogger("mixcpt.distill")


@dataclass(frozen=True)
class _Window:
    """A piece of a document that is read at once."""

    start: int
    """Index of its first token among all."""
    length: int
    keep_from: int
    """Tokens before this one, counted from its start, are known with more context from the window before."""


def cache_teacher(
    config: CachedTeacher,
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
        ModelError: If the model mixes up packed texts.
    """
    digest = json.loads(mixture.file("accounting.json").read_text())["tokens_digest"]
    window = max_tokens or _DEFAULT_WINDOW
    key = StageKey(
        "teacher",
        _VERSION,
        {"stage": "cache", "top_k": config.top_k, "precision": precision, "window": window},
        {"tokens": digest, "teacher": teacher.digest},
    )

    def build(folder: Path) -> dict[str, Any]:
        work = store.work_directory(key)
        return _build(folder, work, config, mixture, teacher, precision, window, digest, tracker)

    return store.produce(key, build, lineage={"mixture": mixture.digest, "teacher": teacher.name})


def _build(
    folder: Path,
    work: Path,
    config: CachedTeacher,
    mixture: ArtifactRef,
    teacher: ModelRef,
    precision: str,
    window: int,
    digest: str,
    tracker: Tracker,
) -> dict[str, Any]:
    model: PreTrainedModel = load_model(teacher, dtype="bfloat16" if precision == "bf16" else "float32")
    check_model(model)
    torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")
    ids = pq.read_table(mixture.file("tokens.parquet"), columns=["ids"]).column("ids").combine_chunks()
    lengths, tokens = ids.value_lengths().to_numpy(), ids.flatten().to_numpy()
    vocab = head_of(model).weight.shape[0]
    identity = CacheIdentity(digest, teacher.digest, vocab, len(tokens), min(config.top_k, vocab))
    _require_space(identity, work)
    arrays = identity.create(work)
    done = _progress(work)
    for first, last in _blocks(lengths):
        if last > done:
            _fill(arrays, model, tokens, _windows(lengths, first, last, window))
            arrays.flush()
            _mark(work, last)
        tracker.log(last, {"teacher/tokens": float(last)}, total_steps=len(tokens))
    (work / _PROGRESS).unlink()  # first: a marker without its arrays would pass empty ones off as done
    for path in work.glob("*.npy"):
        shutil.move(path, folder / path.name)
    identity.write(folder)
    return {"tokens": len(tokens), "top_k": identity.top_k, "bytes": identity.num_bytes}


def _require_space(identity: CacheIdentity, work: Path) -> None:
    needed = identity.num_bytes - sum(path.stat().st_size for path in work.glob("*.npy"))
    _log.info("the cache of %s tokens will take %.1f MiB", f"{identity.num_tokens:,}", identity.num_bytes / 2**20)
    if needed > (free := shutil.disk_usage(work).free):
        raise ArtifactError(
            f"the teacher's cache takes {needed / 2**30:.1f} GiB more, but {work} has {free / 2**30:.1f} GiB left",
            "lower pretrain.teacher.top_k, make room, or set pretrain.teacher to frozen",
        )


def _blocks(lengths: Int[np.ndarray, " documents"]) -> Iterator[tuple[int, int]]:
    """Yields from which token to before which the blocks reach; each holds whole documents."""
    first = last = 0
    for length in lengths.tolist():
        last += length
        if last - first >= _BLOCK_TOKENS:
            yield first, last
            first = last
    if last > first:
        yield first, last


def _windows(lengths: Int[np.ndarray, " documents"], first: int, last: int, window: int) -> list[_Window]:
    """Returns the windows of the documents from one token to before another, the shortest first."""
    starts = np.cumsum(lengths) - lengths
    inside = (starts >= first) & (starts < last) & (lengths > 0)
    windows = []
    for start, length in zip(starts[inside].tolist(), lengths[inside].tolist(), strict=True):
        windows.append(_Window(start, min(length, window), 0))
        step = max(window // 2, 1)
        for begin in range(step, length - window + step, step):
            windows.append(_Window(start + begin, min(window, length - begin), window - step))
    return sorted(windows, key=lambda each: (each.length, each.start))


def _fill(
    arrays: CacheArrays, model: PreTrainedModel, tokens: Int[np.ndarray, " tokens"], windows: list[_Window]
) -> None:
    while windows:
        longest = windows[-1].length
        batch = windows[-max(1, _BATCH_TOKENS // longest) :]
        del windows[-len(batch) :]
        ids = np.zeros((len(batch), longest), np.int64)
        for row, each in enumerate(batch):
            ids[row, : each.length] = tokens[each.start : each.start + each.length]
        _predict(arrays, model, torch.from_numpy(ids).to(model.device), batch)


def _predict(arrays: CacheArrays, model: PreTrainedModel, ids: Int[Tensor, "rows seq"], batch: list[_Window]) -> None:
    """Writes the entries of a batch; the padding behind a row's end is not seen by what stands before it."""
    kept = [np.arange(max(each.keep_from, 1), each.length) for each in batch]
    rows = torch.from_numpy(np.repeat(np.arange(len(batch)), [len(of) for of in kept])).to(ids.device)
    columns = torch.from_numpy(np.concatenate(kept)).to(ids.device)
    places = np.concatenate([each.start + of for each, of in zip(batch, kept, strict=True)])
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    with torch.inference_mode():
        head, hidden = head_of(model), hidden_states(model, ids, positions)
        per_chunk = max(1, DEFAULT_BUDGET_BYTES // (2 * 4 * head.weight.shape[0]))
        for start in range(0, len(places), per_chunk):
            of = slice(start, start + per_chunk)
            row, column = rows[of], columns[of]
            buffer = torch.empty(len(row), head.weight.shape[0], dtype=torch.float32, device=ids.device)
            log_probs = head.logits(hidden[row, column - 1], out=buffer).log_softmax(dim=1)
            top = log_probs.topk(arrays.token_ids.shape[1], dim=1)
            of_label = log_probs.gather(1, ids[row, column].unsqueeze(1)).squeeze(1)
            arrays.put(places[of], top.indices, top.values, of_label)


def _progress(work: Path) -> int:
    """Returns how many tokens an earlier attempt has finished."""
    try:
        return int(json.loads((work / _PROGRESS).read_text())["tokens"])
    except (FileNotFoundError, json.JSONDecodeError):
        return 0


def _mark(work: Path, tokens: int) -> None:
    draft = work / f".{_PROGRESS}"
    with draft.open("w") as stream:
        stream.write(json.dumps({"tokens": tokens}))
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(work / _PROGRESS)
