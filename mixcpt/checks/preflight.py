"""Runs every check of a run or corpus, and raises all problems as one error."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mixcpt.checks import (
    chat_template,
    coverage,
    model_folder,
    names,
    packing,
    questions,
    rates,
    reporters,
    rewriting,
    samples,
    sources,
    tokens,
)
from mixcpt.checks.findings import Check, Finding, Subject
from mixcpt.checks.keys import Place, placed
from mixcpt.config import AdaptConfig, CorpusConfig, CurationConfig, EvaluateConfig
from mixcpt.curation.sources import check_sources
from mixcpt.errors import ConfigError, MixcptError
from mixcpt.evaluate import check_tasks
from mixcpt.store.models import ModelRef, find_model

_CHECKS: tuple[Check, ...] = (
    names.check,
    model_folder.check,
    tokens.check,
    chat_template.check,
    sources.check,
    samples.check,
    coverage.check,
    questions.check,
    packing.check,
    rates.check,
    reporters.check,
    rewriting.check,
)
"""Checks in the order of their findings; a check that needs the model yields nothing if there is none."""


@dataclass(frozen=True)
class Checked:
    """Run without problems."""

    base: ModelRef
    """Base model without its digest, which only `resolve_model` computes."""
    warnings: tuple[Finding, ...]


def preflight(config: AdaptConfig, *, place: Place = str) -> Checked:
    """Check everything that can be known before any work, and return the base model and the warnings.

    `place` gives the key in the user's file for a key of the run.

    Raises:
        ConfigError: If anything is wrong. The error lists every problem with its key.
    """
    findings: list[Finding] = []
    base: ModelRef | None = None
    try:
        base = find_model(config.base)
    except MixcptError as error:
        findings.append(Finding.of(error))
    subject = Subject(config, base)
    for check in _CHECKS:
        findings += check(subject)
    findings = [placed(finding, place) for finding in findings]
    _require_none(finding for finding in findings if not finding.is_warning)
    assert base is not None  # its absence is a finding
    return Checked(base, tuple(findings))


def check_text(config: AdaptConfig, base: ModelRef) -> tuple[Finding, ...]:
    """Check the text of the sources against the tokenizer, and return the warnings; a plan needs no more.

    Raises:
        ConfigError: If the tokenizer loses more text than the settings allow.
    """
    findings = list(coverage.check(Subject(config, base)))
    _require_none(finding for finding in findings if not finding.is_warning)
    return tuple(findings)


def preflight_corpus(config: CorpusConfig) -> None:
    """Check the documents of a corpus and the tasks about them.

    Raises:
        ConfigError: If anything is wrong. The error lists every problem with its key.
    """
    tasks = EvaluateConfig().model_copy(update={"tasks": config.tasks})
    problems = [*check_sources(CurationConfig(sources=(config.source,))), *check_tasks(tasks)]
    _require_none(Finding(problem=problem) for problem in problems)


def _require_none(findings: Iterable[Finding]) -> None:
    problems: Sequence[str] = list(dict.fromkeys(map(str, findings)))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found before any work started:\n{lines}"
        )
