"""Check of the files of a model: weights, quantisation, architecture, custom code."""

from collections.abc import Iterator

from mixcpt.checks.findings import Finding, Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of the files of the base model."""
    yield from ()
