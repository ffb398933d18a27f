"""Check of the share of a source's text that the tokenizer can represent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import chain
from typing import TYPE_CHECKING

from mixcpt.checks.findings import Finding, Subject
from mixcpt.checks.heldout import distinct_heldout, read_small_pool
from mixcpt.config import BitsPerByteTask, FilesSource
from mixcpt.curation.records import DOCUMENT_POOLS, Record
from mixcpt.curation.sampling import SourceSample
from mixcpt.evaluate.asking.texts import MAX_LOST_SHARE
from mixcpt.mixture.lost_text import LostText, lost_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    refused = set()
    for sample in subject.samples:
        compared = lost_text(subject.tokenizer, _texts(sample.records))
        if compared.share > limit:
            refused.add(sample.source.name)
        yield from _findings(sample, compared, limit)
    yield from _heldout(subject, subject.tokenizer, refused)


def _heldout(subject: Subject, tokenizer: PreTrainedTokenizerBase, refused: Set[str]) -> Iterator[Finding]:
    """Yield a problem for each task about held-out text that its evaluation would refuse."""
    for index, task in enumerate(subject.config.evaluate.tasks):
        if not isinstance(task, BitsPerByteTask) or task.heldout_pool == "none":
            continue
        samples = [
            sample
            for sample in subject.samples
            if sample.source.pool == task.heldout_pool and task.source in ("", sample.source.name)
        ]
        if refused & {sample.source.name for sample in samples}:
            continue
        lost = lost_text(tokenizer, _texts(_heldout_records(subject, task, samples)))
        if lost.share > MAX_LOST_SHARE:
            places = ", ".join(map(_place, samples))
            yield Finding(
                problem=f"evaluate.tasks[{index}].heldout_pool: {task.name} measures held-out text of {places}, of "
                f"which the tokenizer of base.model cannot represent {lost.share:.1%} of the characters (at most "
                f"{MAX_LOST_SHARE:.0%}), for example {lost.examples}",
                remedy=_task_remedy(subject, task),
            )


def _place(sample: SourceSample) -> str:
    """Return the key of a source, and the first of its paths."""
    paths = sample.source.paths if isinstance(sample.source, FilesSource) else (sample.source.name,)
    return f"{sample.key} ({paths[0]}{', ...' if len(paths) > 1 else ''})"


def _heldout_records(subject: Subject, task: BitsPerByteTask, samples: Sequence[SourceSample]) -> list[Record]:
    """Return the held-out documents of a small pool; else a sample of the pool."""
    config = subject.config
    if task.heldout_pool in DOCUMENT_POOLS:
        records = read_small_pool(config.curation, task.heldout_pool)
        heldout = distinct_heldout(records, config.curation.heldout_fraction, config.data_seed)
        if own := [record for record in heldout if task.source in ("", record.source)]:
            return own
    return list(chain.from_iterable(sample.records for sample in samples))


def _task_remedy(subject: Subject, task: BitsPerByteTask) -> str:
    """Return the ways to a run whose evaluation is not refused."""
    config = subject.config.evaluate
    headline = "headline_domain" if task.group == "domain" else "headline_general"
    others = [other.name for other in config.tasks if other.group == task.group and other.name != task.name]
    removal = "remove the task"
    if task.name == getattr(config, headline):
        name = others[0] if others else "another task, such as questions about the documents"
        removal += f" and set evaluate.{headline} to {name}"
    return f"use a model whose tokenizer knows these characters; or {removal}"


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


def _texts(records: Iterable[Record]) -> Iterator[str]:
    num_characters = 0
    for record in records:
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
