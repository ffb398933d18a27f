"""Memory of the fused loss: reused matrices with a vocabulary axis, within a byte budget.

Matrix products are fastest with many rows (a chunk). The passes over their logits are not, so they go through a chunk
block by block, and the matrices they need in addition have the size of a block.
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
"""Maximum rows of a chunk; more hardly speed up a matrix product."""
_BLOCK_BYTES = 8 * 2**20
"""Maximum bytes of one block on a CPU, so that each pass finds the previous pass's output in the cache. On an
accelerator a block is a whole chunk, because starting a pass costs more there."""

_HUGE_PAGE_BYTES = 2 * 2**20
_LARGE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Needs:
    """Buffers that one chunk needs at the same time."""

    num_logits: int
    """Number of matrices of shape [chunk, vocab]."""
    num_spares: int
    """Number of matrices of shape [block, vocab]."""
    copy_bytes: int = 0
    """Bytes per logit of a chunk's copy in the narrower type of the matrix products; 0 if no copy is made."""


@dataclass(frozen=True)
class Block:
    """Some rows of a chunk: views of the logits, and spare matrices."""

    rows: slice
    logits: list[Float[Tensor, "block vocab"]]
    spares: list[Float[Tensor, "block vocab"]]


@dataclass(frozen=True)
class Chunk:
    """Scored tokens whose logits are computed together."""

    tokens: Int[Tensor, " rows"]
    """Index of the token that each row belongs to."""
    logits: list[Float[Tensor, "rows vocab"]]
    spares: list[Float[Tensor, "block vocab"]]
    block_rows: int

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks of the chunk in order."""
        for start in range(0, len(self.tokens), self.block_rows):
            rows = slice(start, min(start + self.block_rows, len(self.tokens)))
            spares = [matrix[: rows.stop - start] for matrix in self.spares]
            yield Block(rows, [matrix[rows] for matrix in self.logits], spares)


def scored_chunks(
    labels: Int[Tensor, " tokens"], vocab: int, needs: Needs, *, dtype: torch.dtype, budget_bytes: int
) -> Iterator[Chunk]:
    """Yield the scored tokens in chunks of about equal size whose matrices fit the budget."""
    scored = (labels != IGNORE_INDEX).nonzero().squeeze(1)
    if len(scored) == 0:
        return
    device = labels.device
    chunk_rows, block_rows = _rows(
        len(scored), vocab, needs, dtype=dtype, budget_bytes=budget_bytes, device_type=device.type
    )
    logits = [empty_matrix(chunk_rows, vocab, dtype, device=device) for _ in range(needs.num_logits)]
    spares = [empty_matrix(block_rows, vocab, dtype, device=device) for _ in range(needs.num_spares)]
    for tokens in scored.split(chunk_rows):
        yield Chunk(tokens, [buffer[: len(tokens)] for buffer in logits], spares, block_rows=block_rows)


def buffer_bytes(num_rows: int, vocab: int, needs: Needs, *, device_type: str) -> int:
    """Return the bytes that `scored_chunks` holds at once for this number of scored tokens in fp32."""
    fp32 = torch.float32
    chunk_rows, block_rows = _rows(
        num_rows, vocab, needs, dtype=fp32, budget_bytes=DEFAULT_BUDGET_BYTES, device_type=device_type
    )
    per_chunk_logit = needs.num_logits * fp32.itemsize + needs.copy_bytes
    return vocab * (chunk_rows * per_chunk_logit + block_rows * needs.num_spares * fp32.itemsize)


def empty_matrix(rows: int, columns: int, dtype: torch.dtype, *, device: torch.device) -> Float[Tensor, "rows columns"]:
    """Allocate an uninitialised matrix, on huge pages if it is large and on a CPU.

    With pages of 4 KiB the first use of fresh memory takes six times as long as the second, and the fused loss
    allocates its matrices in every step. Huge pages are used if Linux has them.
    """
    size = rows * columns * dtype.itemsize
    if device.type != "cpu" or size < _LARGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(rows, columns, dtype=dtype, device=device)
    memory = mmap.mmap(-1, size + _HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # the kernel may be built without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    flat = torch.frombuffer(memory, dtype=dtype)  # holds a reference to the memory, which is freed with the tensor
    first = -flat.data_ptr() % _HUGE_PAGE_BYTES // dtype.itemsize  # element at the next boundary of a page
    return flat[first : first + rows * columns].view(rows, columns)


def _rows(
    num_rows: int, vocab: int, needs: Needs, *, dtype: torch.dtype, budget_bytes: int, device_type: str
) -> tuple[int, int]:
    """Return the rows of a chunk and the rows of a block."""
    matrix_row = vocab * dtype.itemsize
    chunk_row = needs.num_logits * matrix_row + needs.copy_bytes * vocab
    spare_row = needs.num_spares * matrix_row
    most_rows = min(num_rows, _MAX_ROWS)
    # rows of a block: all rows on an accelerator, at most _BLOCK_BYTES of one matrix on a CPU
    block_rows = most_rows if device_type != "cpu" else min(most_rows, max(1, _BLOCK_BYTES // matrix_row))
    # rows of a chunk within the budget: first as if a block were a whole chunk, then with the smaller block
    affordable = budget_bytes // (chunk_row + spare_row)
    if affordable > block_rows:
        affordable = (budget_bytes - block_rows * spare_row) // chunk_row
    affordable = min(most_rows, max(1, affordable))
    # the same number of chunks, of equal size: ceil(num_rows / ceil(num_rows / affordable))
    num_chunks = -(-num_rows // affordable)
    chunk_rows = -(-num_rows // num_chunks)
    return chunk_rows, min(block_rows, chunk_rows)
