"""Check of the files of the sources, and of a sample of their records."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from mixcpt.checks.findings import Finding, Subject
from mixcpt.config import BitsPerByteTask
from mixcpt.curation.passages import hold_out
from mixcpt.curation.records import field_names
from mixcpt.curation.remedies import remedy
from mixcpt.curation.sampling import SourceSample
from mixcpt.curation.sources import check_sources
from mixcpt.curation.steps import MIN_SAMPLES, content_key

_NUM_REASONS = 3
_NUM_NAMES = 5
_FEW_DOCUMENTS = 20
"""Number of documents below which a sample is the whole pool and may have nothing to hold out."""


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of the files and fields of the sources."""
    for problem in check_sources(subject.config.curation):
        yield Finding(problem=problem)
    for sample in subject.samples:
        if sample.problem:
            yield Finding(problem=sample.problem)
        elif sample.is_known:
            yield from check_sample(sample)
    yield from _check_heldout(subject)


def check_sample(sample: SourceSample) -> Iterator[Finding]:
    """Yield a problem for a sample without a usable record, and a warning for one with some unusable records."""
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


def _check_heldout(subject: Subject) -> Iterator[Finding]:
    """Yield a problem for each task that measures held-out text of a pool with too little text to hold out any."""
    config = subject.config
    for index, task in enumerate(config.evaluate.tasks):
        if not isinstance(task, BitsPerByteTask) or task.heldout_pool == "none":
            continue
        samples = [sample for sample in subject.samples if sample.source.pool == task.heldout_pool]
        records = list(chain.from_iterable(sample.records for sample in samples))
        is_small = 0 < len(records) < _FEW_DOCUMENTS and all(sample.is_known for sample in samples)
        if not is_small:
            continue
        if task.heldout_pool == "instructions":
            if len({content_key(record) for record in records}) < MIN_SAMPLES:
                yield _too_few_instructions(f"evaluate.tasks[{index}]: {task.name}", len(records))
            continue
        heldout = hold_out(records, config.curation.heldout_fraction, config.data_seed).heldout
        if not any(task.source in ("", record.source) for record in heldout):
            yield Finding(
                problem=f"evaluate.tasks[{index}]: {task.name} measures held-out text of "
                f"{task.source or f'the pool {task.heldout_pool}'}, which has too little text to hold out any: "
                f"{len(records)} short documents",
                remedy="add documents (five, or one of several sentences and 500 characters), or remove the task",
            )


def _too_few_instructions(task: str, number: int) -> Finding:
    return Finding(
        problem=f"{task} measures held-out instructions, at most a tenth of all; there are only {number}",
        remedy=f"give at least {MIN_SAMPLES} different instructions, or remove the task and set "
        "curation.heldout_instructions: 0",
    )


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
