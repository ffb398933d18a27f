"""Check of the share of a source's text that the tokenizer can represent."""

import math
from collections.abc import Iterator

from mixcpt.checks.findings import Finding, Subject
from mixcpt.curation.sampling import SourceSample
from mixcpt.mixture.lost_text import LostText, lost_text

_WARNED_SHARE = 0.001
_MAX_ACCEPTED_SHARE = 0.2
"""Share of lost characters above which the message does not offer to accept the loss."""
_WARNED_CHANGED_SHARE = 0.01
_MAX_CHARACTERS = 400_000
"""Number of characters of a source that are compared."""
_MAX_TEXT_CHARACTERS = 20_000


def check(subject: Subject) -> Iterator[Finding]:
    """Yield a problem for each source with text that the tokenizer loses."""
    if subject.tokenizer is None:
        return
    limit = subject.config.curation.max_lost_fraction
    for sample in subject.samples:
        compared = lost_text(subject.tokenizer, _texts(sample))
        yield from _findings(sample, compared, limit)


def _findings(sample: SourceSample, compared: LostText, limit: float) -> Iterator[Finding]:
    share, most = _percents(compared.share, limit)
    problem = (
        f"{sample.key}: the tokenizer of base.model cannot represent {share} of the characters of "
        f"{sample.source.name}, for example {compared.examples}"
    )
    if compared.share > limit:
        yield Finding(
            problem=f"{problem}; the model would not read them (at most {most})",
            remedy=_remedy(compared),
        )
    elif compared.share > _WARNED_SHARE:
        yield Finding(problem=problem, remedy="the model does not read these characters", is_warning=True)
    if compared.changed_share > _WARNED_CHANGED_SHARE:
        yield Finding(
            problem=f"{sample.key}: the tokenizer of base.model changes case or accents of "
            f"{compared.changed_share:.1%} of the characters of {sample.source.name}",
            remedy="the model reads and writes them without",
            is_warning=True,
        )


def _percents(share: float, limit: float) -> tuple[str, str]:
    """Return share and limit with so many decimals that they differ, unless they are equal."""
    pairs = ((f"{share:.{digits}%}", f"{limit:.{digits}%}") for digits in range(1, 7))
    return next((pair for pair in pairs if pair[0] != pair[1]), (f"{share:.1%}", f"{limit:.1%}"))


def _texts(sample: SourceSample) -> Iterator[str]:
    num_characters = 0
    for record in sample.records:
        text = record.text[:_MAX_TEXT_CHARACTERS]
        yield text
        num_characters += len(text)
        if num_characters > _MAX_CHARACTERS:
            return


def _remedy(compared: LostText) -> str:
    other_model = "use a model whose tokenizer knows these characters; most new ones know all"
    if compared.share > _MAX_ACCEPTED_SHARE:
        return other_model
    accepted = math.ceil(100 * compared.share) / 100
    return f"{other_model}; or replace them, or accept the loss: set curation.max_lost_fraction to {accepted}"
