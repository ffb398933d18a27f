"""Check of rows and packing against the architecture of the model."""

from collections.abc import Iterator

from mixcpt.checks.findings import Finding, Subject
from mixcpt.errors import MixcptError
from mixcpt.mixture.tokens import require_row_fits


def check(subject: Subject) -> Iterator[Finding]:
    """Yield a problem if rows do not fit the context of the model."""
    if subject.base:
        try:
            require_row_fits(subject.config.mixture.row_tokens, subject.base)
        except MixcptError as error:
            yield Finding.of(error)
