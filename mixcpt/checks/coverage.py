"""Check of the share of each source's text that the tokenizer can represent."""

from collections.abc import Iterator

from mixcpt.checks.findings import Finding, Subject
from mixcpt.curation.sampling import SourceSample
from mixcpt.mixture.lost_text import LostText, lost_text

_WARNED_SHARE = 0.001
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
    problem = (
        f"{sample.key}: the tokenizer of base.model cannot represent {compared.share:.1%} of the characters of "
        f"{sample.source.name}, for example {compared.examples}"
    )
    if compared.share > limit:
        yield Finding(
            problem=f"{problem}; the model would not read them (at most {limit:.1%})",
            remedy="use a model whose tokenizer knows this script (most new ones know every character), replace the "
            f"characters, or accept the loss: curation.max_lost_fraction={_rounded_up(compared.share)}",
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


def _texts(sample: SourceSample) -> Iterator[str]:
    num_characters = 0
    for record in sample.records:
        text = record.text[:_MAX_TEXT_CHARACTERS]
        yield text
        num_characters += len(text)
        if num_characters > _MAX_CHARACTERS:
            return


def _rounded_up(share: float) -> float:
    return min(1.0, round(share + 0.005, 2) if share < 0.99 else 1.0)
