"""Check of the files of the sources, and of a sample of their records."""

from collections import Counter
from collections.abc import Iterator, Sequence

from mixcpt.checks.findings import Finding, Subject
from mixcpt.curation.records import field_names
from mixcpt.curation.remedies import remedy
from mixcpt.curation.sampling import SourceSample
from mixcpt.curation.sources import check_sources

_NUM_REASONS = 3
_NUM_NAMES = 5


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of the files and fields of the sources."""
    for problem in check_sources(subject.config.curation):
        yield Finding(problem=problem)
    for sample in subject.samples:
        if sample.problem:
            yield Finding(problem=sample.problem)
        elif sample.is_known:
            yield from check_sample(sample)


def check_sample(sample: SourceSample) -> Iterator[Finding]:
    """Yield what is wrong with a sample of a source: no usable record is a problem, some unusable ones a warning."""
    name = sample.source.name
    if not sample.num_read:
        yield Finding(
            problem=f"{sample.key}: the files of {name} hold no record",
            remedy="remove the source, or fill its files",
        )
    elif not sample.records:
        reasons = [*map(str, sample.defects), *map(str, sample.removed)]
        yield Finding(
            problem=f"{_setting(sample)}: none of {sample.num_read} records of {name} is usable{_listed(reasons)}",
            remedy=_remedy(sample),
        )
    elif sample.defects:
        share = len(sample.defects) / sample.num_read
        yield Finding(
            problem=f"{sample.key}: {len(sample.defects)} of {sample.num_read} records of {name} are unusable "
            f"({share:.0%}); the first: {sample.defects[0]}",
            remedy=f"they are left out and listed; {_remedy(sample)}",
            is_warning=True,
        )
    if sample.ignored:
        yield Finding(problem=f"{sample.key}: {_ignored(sample)}", is_warning=True)


def _setting(sample: SourceSample) -> str:
    """Return the key of the setting that names the first unusable field; else that of the source."""
    fields = field_names(sample.source).model_dump()
    field = sample.defects[0].field if sample.defects else ""
    name = next((setting for setting, value in fields.items() if field and value == field), "")
    return f"{sample.key}.fields.{name}" if name else sample.key


def _remedy(sample: SourceSample) -> str:
    if sample.defects:
        return remedy(sample.source, sample.defects, sample.unparsed)
    return "lower curation.min_characters, or give longer documents"


def _listed(reasons: Sequence[str]) -> str:
    lines = "".join(f"\n      {reason}" for reason in reasons[:_NUM_REASONS])
    more = len(reasons) - _NUM_REASONS
    return f":{lines}" + (f"\n      and {more} more" if more > 0 else "")


def _ignored(sample: SourceSample) -> str:
    """Return the sentence about files that no reader knows, by kind."""
    kinds = Counter(path.suffix.lower() or "no suffix" for path in sample.ignored)
    counts = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(_NUM_NAMES))
    names = ", ".join(path.name for path in sample.ignored[:_NUM_NAMES])
    more = ", ..." if len(sample.ignored) > _NUM_NAMES else ""
    return f"{len(sample.ignored)} files of {sample.source.name} are left out ({counts}): {names}{more}"
