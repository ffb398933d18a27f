"""Estimate of the padding of rows that contain one document each."""

from collections.abc import Iterator, Sequence
from itertools import islice

from mixcpt.checks.findings import Subject

_NUM_RECORDS = 200
"""Number of records of a source whose length is measured."""
_MAX_CHARACTERS = 20_000


def padding_share(subject: Subject) -> float | None:
    """Return the share of padding if each document has a row of its own; None if no text is known.

    The rows of one step are as long as its longest document.
    """
    tokens_per_step = subject.config.mixture.row_tokens * subject.config.pretrain.micro_batch_rows
    num_read, num_places = 0, 0
    for step in _steps(_lengths(subject), tokens_per_step):
        num_read += sum(step)
        num_places += len(step) * max(step)
    return 1 - num_read / num_places if num_places else None


def _lengths(subject: Subject) -> Iterator[int]:
    """Yield the lengths of documents in tokens, as a mixture cuts them into rows."""
    if subject.tokenizer is None:
        return
    weights = subject.config.mixture.weights.model_dump()
    row_tokens = subject.config.mixture.row_tokens
    for sample in subject.samples:
        if not weights.get(sample.source.pool):
            continue
        for record in islice(sample.records, _NUM_RECORDS):
            ids = subject.tokenizer(record.text[:_MAX_CHARACTERS], add_special_tokens=False, verbose=False)["input_ids"]
            whole_rows, rest = divmod(len(ids), row_tokens)
            yield from (*[row_tokens] * whole_rows, *([rest] if rest else []))


def _steps(lengths: Iterator[int], tokens_per_step: int) -> Iterator[Sequence[int]]:
    """Yield the lengths of the documents that one step reads."""
    step: list[int] = []
    for length in lengths:
        step.append(length)
        if sum(step) >= tokens_per_step:
            yield step
            step = []
    if step:
        yield step
