"""Check of the share of each source's text that the tokenizer can represent."""

from collections.abc import Iterator

from mixcpt.checks.findings import Finding, Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Yield a problem for each source with text that the tokenizer loses."""
    yield from ()
