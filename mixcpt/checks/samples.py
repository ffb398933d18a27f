"""Check that SFT and DPO have samples that they can use."""

from collections.abc import Iterator
from itertools import chain

from mixcpt.checks.findings import Finding, Subject
from mixcpt.errors import MixcptError

_MIN_SHARE = 0.1
"""Share of usable samples below which a warning is given."""


def check(subject: Subject) -> Iterator[Finding]:
    """Yield a problem for each training of alignment without a usable sample, and a warning for one with few."""
    selection = subject.config.align.selection
    if subject.base and (selection.num_instructions or selection.num_preferences):
        yield from _check_stages(subject)


def _check_stages(subject: Subject) -> Iterator[Finding]:
    from jinja2 import TemplateError

    from mixcpt.align.chat import load_chat_tokenizer
    from mixcpt.align.usable import count_usable, limits
    from mixcpt.checks.loading import quiet

    assert subject.base is not None
    try:
        with quiet():
            tokenizer = load_chat_tokenizer(subject.base, subject.config.base.chat_template)
            counts = [
                count_usable(tokenizer, _texts(subject, limit.pool.name), limit)
                for limit in limits(subject.config, subject.base)
            ]
    except (MixcptError, TemplateError, OSError, ValueError):  # the checks of model and template name the reason
        return
    for counted in counts:
        pool, num_unusable = counted.limit.pool.name, counted.skipped.total()
        key = f"align.selection.num_{pool}"
        if num_unusable and not counted.num_usable:
            yield Finding(problem=f"{key}: {counted.problem}", remedy=counted.remedy)
        elif counted.num_usable < _MIN_SHARE * num_unusable:
            total = counted.num_usable + num_unusable
            problem = f"{key}: only {counted.num_usable} of the first {total} {pool} are usable"
            reasons = ", ".join(f"{reason} {number}" for reason, number in counted.skipped.most_common())
            yield Finding(problem=f"{problem} ({reasons})", remedy=counted.remedy, is_warning=True)


def _texts(subject: Subject, pool: str) -> Iterator[tuple[str, ...]]:
    records = chain.from_iterable(sample.records for sample in subject.samples if sample.source.pool == pool)
    return (record.texts for record in records)
