"""Check of optimizers, rates, precision and passes over the documents against model and device."""

from collections.abc import Iterator

from mixcpt.checks.findings import Finding, Subject
from mixcpt.config import require_optimizer
from mixcpt.errors import MixcptError


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of the optimizers."""
    config = subject.config
    for stage in (config.pretrain, config.align.sft, config.align.dpo):
        try:
            require_optimizer(stage.optimizer)
        except MixcptError as error:
            yield Finding.of(error)
