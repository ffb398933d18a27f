"""Check of a tokenizer against the embeddings of its model and against the text of the sources."""

from collections.abc import Iterator

from mixcpt.checks.findings import Finding, Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of the tokenizer."""
    yield from ()
