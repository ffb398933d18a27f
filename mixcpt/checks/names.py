"""Check of the names of a run."""

from collections.abc import Iterator

from mixcpt.checks.findings import Finding, Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Yield a problem if the name of the run is reserved."""
    yield from ()
