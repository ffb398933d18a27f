"""Numbers of a comparison: results and cost of every contender over all seeds, claims, promises and choice."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import mean, stdev
from typing import Literal

from mixcpt.config import Claim
from mixcpt.evaluate.statistics.across_seeds import SeedsDelta, across_seeds
from mixcpt.evaluate.statistics.estimates import holm
from mixcpt.evaluate.statistics.outcomes import gain, selection_score
from mixcpt.records.comparison import Comparison, ContenderResult, TriedValue
from mixcpt.report.sections.provenance import Cost, stage_costs, total
from mixcpt.report.summary import is_kept
from mixcpt.stages.registry import trained_roles

Verdict = Literal["holds", "does not hold", "not shown"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Results of one contender over all seeds."""

    contender: str
    method: str
    value: float
    """Value of the searched setting."""
    changes: Mapping[str, SeedsDelta]
    """Changes from the base by task, headline tasks first."""
    against_first: Mapping[str, SeedsDelta]
    """Changes from the first contender by task, paired by seed; empty for the first contender."""
    learned: float
    """Gain on the headline task of the domain, see `mixcpt.evaluate.statistics.outcomes.gain`."""
    kept: float
    """Gain on the general headline task; negative if something was forgotten."""
    is_on_front: bool
    """Whether no other contender learned more and kept more."""
    cost: Cost
    """Cost of one training, mean over the seeds."""


@dataclass(frozen=True)
class Choice:
    """Score that decides between the contenders, on the selection split."""

    contender: str
    score: float
    """Mean over the seeds, see `mixcpt.evaluate.statistics.outcomes.selection_score`."""
    spread: float
    """Standard deviation over the seeds; NaN for one seed."""


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """A claim with its verdict."""

    claim: Claim
    change: SeedsDelta
    """Difference between the contender and the other contender, or the base, on the claim's task."""
    verdict: Verdict
    """`holds` or `does not hold` if the whole interval agrees, otherwise `not shown`."""
    p_holm: float
    """p-value of no difference, corrected for the number of claims by Holm's method."""


@dataclass(frozen=True, kw_only=True)
class PromiseResult:
    """Number of trainings of one contender that keep a promise of this or another contender."""

    contender: str
    task: str
    max_loss: float
    is_own: bool
    """Whether the contender itself made the promise."""
    num_kept: int
    """Number of trainings that keep the promise."""
    worst: float
    """Change of the training with the greatest loss."""


@dataclass(frozen=True, kw_only=True)
class ComparisonSummary:
    """Numbers of the page of a comparison."""

    name: str
    base_name: str
    setting: str
    """Key path of the searched setting."""
    seeds: tuple[int, ...]
    equal: str
    """Budget that is equal for all trainings: `tokens` or `flops`."""
    confidence: float
    headline_domain: str
    headline_general: str
    rows: Sequence[Row]
    tried: Sequence[TriedValue]
    choice: Sequence[Choice]
    """Scores of all contenders, highest first."""
    claims: Sequence[ClaimResult]
    promises: Sequence[PromiseResult]
    """Results of every contender for every promise."""

    @property
    def headlines(self) -> list[str]:
        """Headline tasks without repetition."""
        return list(dict.fromkeys((self.headline_domain, self.headline_general)))

    @property
    def setting_name(self) -> str:
        """Last part of the key path of the searched setting."""
        return self.setting.rpartition(".")[2]


def summarise_comparison(comparison: Comparison) -> ComparisonSummary:
    """Return the summary of a comparison.

    Raises:
        DataError: If its trainings were not evaluated on the same questions in the same form.
    """
    first = comparison.results[0]
    settings = first.runs[0].config.evaluate
    rows = [_row(result, first, settings.confidence) for result in comparison.results]
    return ComparisonSummary(
        name=comparison.config.name,
        base_name=first.runs[0].base.name,
        setting=comparison.config.search.setting,
        seeds=comparison.config.seeds,
        equal=comparison.config.equal,
        confidence=settings.confidence,
        headline_domain=settings.headline_domain,
        headline_general=settings.headline_general,
        rows=[replace(row, is_on_front=not _is_dominated(row, rows)) for row in rows],
        tried=comparison.tried,
        choice=_choice(comparison),
        claims=_claims(comparison),
        promises=_promises(comparison, rows),
    )


def _row(result: ContenderResult, first: ContenderResult, confidence: float) -> Row:
    bases = [run.evaluations["base"] for run in result.runs]
    finals = [run.evaluations["final"] for run in result.runs]
    changes = across_seeds(bases, finals, confidence=confidence, across_forms=True)
    against_first: list[SeedsDelta] = []
    if result is not first:
        references = [run.evaluations["final"] for run in first.runs]
        against_first = across_seeds(references, finals, confidence=confidence)
    config = result.runs[0].config
    domain, general = config.evaluate.headline_domain, config.evaluate.headline_general
    return Row(
        contender=result.contender,
        method=config.pretrain.method.kind,
        value=result.value,
        changes=_headlines_first(changes, (domain, general)),
        against_first=_headlines_first(against_first, (domain, general)),
        learned=mean(gain(base, final, domain) for base, final in zip(bases, finals, strict=True)),
        kept=mean(gain(base, final, general) for base, final in zip(bases, finals, strict=True)),
        is_on_front=False,  # known only after all rows exist
        cost=_mean_cost(result),
    )


def _headlines_first(changes: Sequence[SeedsDelta], headlines: Sequence[str]) -> dict[str, SeedsDelta]:
    ordered = sorted(changes, key=lambda change: change.task not in headlines)
    return {change.task: change for change in ordered}


def _is_dominated(row: Row, rows: Sequence[Row]) -> bool:
    own = (row.learned, row.kept)
    others = [(other.learned, other.kept) for other in rows]
    return any(other[0] >= own[0] and other[1] >= own[1] and other != own for other in others)


def _mean_cost(result: ContenderResult) -> Cost:
    totals = [total(cost for cost in stage_costs(run) if cost.stage in trained_roles()) for run in result.runs]
    peaks = [cost.peak_memory_bytes or 0 for cost in totals]
    return Cost(
        stage="training",
        seconds=mean(cost.seconds for cost in totals),
        tokens=round(mean(cost.tokens or 0 for cost in totals)),
        flops=mean(cost.flops or 0 for cost in totals),
        peak_memory_bytes=max(peaks) or None,
    )


def _promises(comparison: Comparison, rows: Sequence[Row]) -> list[PromiseResult]:
    """Return the results of every contender for every promised task.

    A contender that did not promise a task is held to the strictest promise of the others.
    """
    limits: dict[tuple[str, str], float] = {}
    strictest: dict[str, float] = {}
    for result in comparison.results:
        config = result.runs[0].config
        limit = config.pretrain.retention.max_loss
        for task in config.promised_tasks:
            limits[result.contender, task] = limit
            strictest[task] = min(limit, strictest.get(task, limit))
    results = []
    for (task, shared_limit), row in product(strictest.items(), rows):
        max_loss = limits.get((row.contender, task), shared_limit)
        change = row.changes[task]
        deltas = [value - base for value, base in zip(change.values, change.bases, strict=True)]
        promise = PromiseResult(
            contender=row.contender,
            task=task,
            max_loss=max_loss,
            is_own=(row.contender, task) in limits,
            num_kept=sum(is_kept(delta, max_loss) for delta in deltas),
            worst=min(deltas),
        )
        results.append(promise)
    return results


def _claims(comparison: Comparison) -> list[ClaimResult]:
    """Return the results of a comparison's claims in their order."""
    results = [_claim_result(claim, comparison) for claim in comparison.config.claims]
    adjusted = holm([result.change.p_value for result in results]) if results else []
    return [replace(result, p_holm=p_value) for result, p_value in zip(results, adjusted, strict=True)]


def _claim_result(claim: Claim, comparison: Comparison) -> ClaimResult:
    runs = {result.contender: result.runs for result in comparison.results}
    confidence = runs[claim.contender][0].config.evaluate.confidence
    after = [run.evaluations["final"] for run in runs[claim.contender]]
    if claim.against:
        before = [run.evaluations["final"] for run in runs[claim.against]]
    else:
        before = [run.evaluations["base"] for run in runs[claim.contender]]
    # the base is evaluated in plain form, a contender possibly in chat form
    changes = across_seeds(before, after, confidence=confidence, across_forms=not claim.against)
    change = next(change for change in changes if change.task == claim.task)
    return ClaimResult(claim=claim, change=change, verdict=_verdict(claim, change), p_holm=change.p_value)


def _verdict(claim: Claim, change: SeedsDelta) -> Verdict:
    low, high = (change.low, change.high) if change.higher_is_better else (-change.high, -change.low)
    if low > claim.by:
        return "holds"
    return "does not hold" if high < claim.by else "not shown"


def _choice(comparison: Comparison) -> list[Choice]:
    """Return the score of every contender over all seeds, highest first."""
    choices = []
    for result in comparison.results:
        settings = result.runs[0].config.evaluate
        scores = [
            selection_score(
                run.evaluations["selection-base"],
                run.evaluations["selection-final"],
                domain=settings.headline_domain,
                general=settings.headline_general,
                domain_share=comparison.config.search.domain_share,
            )
            for run in result.runs
        ]
        choices.append(Choice(result.contender, mean(scores), stdev(scores) if len(scores) > 1 else math.nan))
    return sorted(choices, key=lambda choice: -choice.score)
