"""The memory of the fused loss: matrices with a vocabulary axis, used over and over, within a byte budget.

Matrix products want many rows at once. The passes over their logits do not, so they go block by block through a chunk's
rows, and what they need beside the logits has the size of a block.
"""

import mmap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mixcpt.mixture.rows import IGNORE_INDEX

DEFAULT_BUDGET_BYTES = 384 * 2**20
_MAX_ROWS = 768
"""More rows at once hardly speed a matrix product up."""
_BLOCK_BYTES = 8 * 2**20
"""Of one matrix on a CPU, so that a pass finds in the cache what the one before it has written. On an accelerator a
block is a whole chunk: there, the start of a pass costs more."""

_HUGE_PAGE_BYTES = 2 * 2**20
_LARGE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Needs:
    """What has to be there at once."""

    num_logits: int
    """Matrices of shape [chunk, vocab]."""
    num_spares: int
    """Matrices of shape [block, vocab]."""
    copy_bytes: int = 0
    """Per logit of a chunk, for a copy in the narrower type of the matrix products."""


@dataclass(frozen=True)
class Block:
    """Some rows of a chunk: views of the logits, and spare matrices."""

    rows: slice
    logits: list[Float[Tensor, "block vocab"]]
    spares: list[Float[Tensor, "block vocab"]]


@dataclass(frozen=True)
class Chunk:
    tokens: Int[Tensor, " rows"]
    """Which tokens the rows are."""
    logits: list[Float[Tensor, "rows vocab"]]
    spares: list[Float[Tensor, "block vocab"]]
    block_rows: int

    def blocks(self) -> Iterator[Block]:
        """Yields the chunk block by block, in order."""
        for start in range(0, len(self.tokens), self.block_rows):
            rows = slice(start, min(start + self.block_rows, len(self.tokens)))
            size = rows.stop - start
            yield Block(rows, [logits[rows] for logits in self.logits], [spare[:size] for spare in self.spares])


def scored_chunks(
    labels: Int[Tensor, " tokens"], vocab: int, needs: Needs, dtype: torch.dtype, budget_bytes: int
) -> Iterator[Chunk]:
    """Yields the scored tokens in chunks of about the same size, whose matrices fit the budget."""
    scored = (labels != IGNORE_INDEX).nonzero().squeeze(1)
    if len(scored) == 0:
        return
    chunk_rows, block_rows = _rows(len(scored), vocab, needs, dtype, budget_bytes, labels.device.type)

    logits = [empty_matrix(chunk_rows, vocab, dtype, labels.device) for _ in range(needs.num_logits)]
    spares = [empty_matrix(block_rows, vocab, dtype, labels.device) for _ in range(needs.num_spares)]
    for tokens in scored.split(chunk_rows):
        yield Chunk(tokens, [buffer[: len(tokens)] for buffer in logits], spares, block_rows)


def buffer_bytes(num_rows: int, vocab: int, needs: Needs, *, device_type: str) -> int:
    """Returns what `scored_chunks` holds at once for so many scored tokens in fp32, in bytes."""
    chunk_rows, block_rows = _rows(num_rows, vocab, needs, torch.float32, DEFAULT_BUDGET_BYTES, device_type)
    of_chunk = needs.num_logits * torch.float32.itemsize + needs.copy_bytes
    return vocab * (chunk_rows * of_chunk + block_rows * needs.num_spares * torch.float32.itemsize)


def empty_matrix(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "rows columns"]:
    """Returns an uninitialised matrix.

    A large one on a CPU is of huge pages, where Linux has them: page by page of 4 KiB, the first use of fresh memory
    takes six times as long as its second, and the fused loss asks for it in every step.
    """
    size = rows * columns * dtype.itemsize
    if device.type != "cpu" or size < _LARGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(rows, columns, dtype=dtype, device=device)
    memory = mmap.mmap(-1, size + _HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    flat = torch.frombuffer(memory, dtype=dtype)  # keeps the memory alive, and with it goes
    first = -flat.data_ptr() % _HUGE_PAGE_BYTES // dtype.itemsize
    return flat[first : first + rows * columns].view(rows, columns)


def _rows(
    num_rows: int, vocab: int, needs: Needs, dtype: torch.dtype, budget_bytes: int, device_type: str
) -> tuple[int, int]:
    """Returns how many rows a chunk has, and how many a block."""
    one = vocab * dtype.itemsize
    of_chunk = needs.num_logits * one + needs.copy_bytes * vocab
    most = min(num_rows, _MAX_ROWS)
    block = most if device_type != "cpu" else min(most, max(1, _BLOCK_BYTES // one))
    affordable = budget_bytes // (of_chunk + needs.num_spares * one)  # where a block is a whole chunk
    if affordable > block:
        affordable = (budget_bytes - needs.num_spares * block * one) // of_chunk
    affordable = min(most, max(1, affordable))
    rows = -(-num_rows // -(-num_rows // affordable))
    return rows, min(block, rows)
