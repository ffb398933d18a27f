"""Check of the files and fields of the sources."""

from collections.abc import Iterator

from mixcpt.checks.findings import Finding, Subject
from mixcpt.curation.sources import check_sources


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of the sources."""
    for problem in check_sources(subject.config.curation):
        yield Finding(problem=problem)
