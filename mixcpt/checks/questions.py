"""Check of the files of questions and texts that measure a model."""

from collections.abc import Iterator

from mixcpt.checks.findings import Finding, Subject
from mixcpt.evaluate import check_tasks


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of the tasks."""
    for problem in check_tasks(subject.config.evaluate):
        yield Finding(problem=problem)
