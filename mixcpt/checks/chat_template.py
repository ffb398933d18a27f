"""Check of the chat template of a run."""

from collections.abc import Iterator

from mixcpt.checks.findings import Finding, Subject
from mixcpt.errors import MixcptError
from mixcpt.store.models import require_chat_template


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of the chat template, if the run needs one."""
    if subject.base and subject.needs_chat:
        try:
            require_chat_template(subject.base, subject.config.base.chat_template)
        except MixcptError as error:
            yield Finding.of(error)
