"""Numbers of a comparison: results and cost of every contender over all seeds, claims, promises and choice."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from statistics import mean, stdev
from typing import Literal

from mixcpt.config import Claim
from mixcpt.evaluate.statistics.across_seeds import SeedsDelta, across_seeds
from mixcpt.evaluate.statistics.estimates import holm
from mixcpt.evaluate.statistics.outcomes import gain, selection_score
from mixcpt.records.comparison import Comparison, ContenderResult, TriedValue
from mixcpt.records.plan import price_per_hour
from mixcpt.report.sections.provenance import Cost, stage_costs, total
from mixcpt.report.summary import general_headline, is_kept
from mixcpt.report.verdict import Direction, direction
from mixcpt.stages.registry import trained_roles
from mixcpt.store.artifacts import ArtifactStore

Verdict = Literal["holds", "does not hold", "not shown"]
_SAME_FLOPS, _SAME_SECONDS = 1.01, 1.1
"""Ratios of costs up to which two trainings cost about the same."""


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
    kept: float | None
    """Gain on the general headline task; negative if something was forgotten; None if no task is general."""
    is_on_front: bool
    """Whether no other contender learned more and kept more, by the means over the seeds."""
    cost: Cost
    """Cost of one training, mean over the seeds."""
    num_devices: int
    """Number of devices of one training."""
    price: float | None
    """Price of one training, in the currency of the last plan with a price in the store; None without such a plan."""

    @property
    def device_seconds(self) -> float:
        """Time of one training, summed over its devices."""
        return self.cost.seconds * self.num_devices


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Score of a contender on the selection split, and its difference from the best score on the report split."""

    contender: str
    score: float
    """Mean over the seeds, see `mixcpt.evaluate.statistics.outcomes.selection_score`."""
    spread: float
    """Standard deviation over the seeds; NaN for one seed."""
    against_best: Mapping[str, SeedsDelta]
    """Changes on the headline tasks from the contender with the best score, paired by seed; empty for the best."""

    @property
    def is_tied(self) -> bool:
        """Whether no headline task shows a difference from the contender with the best score."""
        ways = set(map(direction, self.against_best.values()))
        return not ways & {Direction.BETTER, Direction.WORSE}

    @property
    def is_better(self) -> bool:
        """Whether a headline task is better than with the best score, and none is worse."""
        ways = set(map(direction, self.against_best.values()))
        return Direction.BETTER in ways and Direction.WORSE not in ways


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """A claim with its verdict."""

    claim: Claim
    change: SeedsDelta
    """Difference between the contender and the other contender, or the base, on the claim's task."""
    verdict: Verdict
    """`holds` or `does not hold` if the whole interval agrees; otherwise, and at chance, `not shown`."""
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
    """General task that represents prior knowledge; empty if no task is general, so that forgetting is not measured."""
    rows: Sequence[Row]
    tried: Sequence[TriedValue]
    choice: Sequence[Choice]
    """Scores of all contenders, highest first."""
    claims: Sequence[ClaimResult]
    promises: Sequence[PromiseResult]
    """Results of every contender for every promise."""

    @property
    def headlines(self) -> list[str]:
        """Headline tasks that were measured, without repetition."""
        return _headlines(self.headline_domain, self.headline_general)

    @property
    def chances(self) -> dict[str, float]:
        """Accuracy of guessing by task; tasks without choices are absent."""
        return {task: change.chance for task, change in self.rows[0].changes.items() if change.chance}

    @property
    def differences(self) -> list[SeedsDelta]:
        """All changes from the base and from the first contender."""
        return [*chain.from_iterable((*row.changes.values(), *row.against_first.values()) for row in self.rows)]

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
    settings, general = first.runs[0].config.evaluate, general_headline(first.runs[0])
    headlines = _headlines(settings.headline_domain, general)
    price = price_per_hour(ArtifactStore(first.runs[0].refs["corpus"].directory.parents[1]))
    rows = [_row(result, first, headlines, price) for result in comparison.results]
    return ComparisonSummary(
        name=comparison.config.name,
        base_name=first.runs[0].base.name,
        setting=comparison.config.search.setting,
        seeds=comparison.config.seeds,
        equal=comparison.config.equal,
        confidence=settings.confidence,
        headline_domain=settings.headline_domain,
        headline_general=general,
        rows=[replace(row, is_on_front=not _is_dominated(row, rows)) for row in rows],
        tried=comparison.tried,
        choice=_choice(comparison, headlines),
        claims=_claims(comparison),
        promises=_promises(comparison, rows),
    )


def cheapest(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with the least compute or, of those with about the same, the least time of the devices."""
    least = min(row.cost.flops or 0 for row in rows)
    rows = [row for row in rows if (row.cost.flops or 0) <= _SAME_FLOPS * least]
    shortest = min(row.device_seconds for row in rows)
    return [row for row in rows if row.device_seconds <= _SAME_SECONDS * shortest]


def _headlines(domain: str, general: str) -> list[str]:
    return [task for task in dict.fromkeys((domain, general)) if task]


def _row(result: ContenderResult, first: ContenderResult, headlines: Sequence[str], price: float) -> Row:
    config = result.runs[0].config
    bases = [run.evaluations["base"] for run in result.runs]
    finals = [run.evaluations["final"] for run in result.runs]
    changes = across_seeds(bases, finals, confidence=config.evaluate.confidence, across_forms=True)
    against_first: list[SeedsDelta] = []
    if result is not first:
        against_first = _between(first, result)
    pairs = list(zip(bases, finals, strict=True))
    learned, *kept = (mean(gain(base, final, task) for base, final in pairs) for task in headlines)
    cost, num_devices = _mean_cost(result), config.runtime.num_processes
    return Row(
        contender=result.contender,
        method=config.pretrain.method.kind,
        value=result.value,
        changes=_headlines_first(changes, headlines),
        against_first=_headlines_first(against_first, headlines),
        learned=learned,
        kept=kept[0] if kept else None,
        is_on_front=False,  # known only after all rows exist
        cost=cost,
        num_devices=num_devices,
        price=price * num_devices * cost.seconds / 3600 if price else None,
    )


def _between(before: ContenderResult, after: ContenderResult) -> list[SeedsDelta]:
    """Return the changes from one contender to another, paired by seed."""
    finals = [[run.evaluations["final"] for run in result.runs] for result in (before, after)]
    return across_seeds(*finals, confidence=before.runs[0].config.evaluate.confidence)


def _headlines_first(changes: Sequence[SeedsDelta], headlines: Sequence[str]) -> dict[str, SeedsDelta]:
    ordered = sorted(changes, key=lambda change: change.task not in headlines)
    return {change.task: change for change in ordered}


def _is_dominated(row: Row, rows: Sequence[Row]) -> bool:
    own = (row.learned, row.kept or 0)
    others = [(other.learned, other.kept or 0) for other in rows]
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
    if direction(change) in (Direction.GUESSED, Direction.UNKNOWN):
        return "not shown"
    low, high = (change.low, change.high) if change.higher_is_better else (-change.high, -change.low)
    if low > claim.by:
        return "holds"
    return "does not hold" if high < claim.by else "not shown"


def _choice(comparison: Comparison, headlines: Sequence[str]) -> list[Choice]:
    """Return the score of every contender over all seeds, highest first."""
    domain_share = comparison.config.search.domain_share
    scores = {result.contender: _scores(result, headlines, domain_share) for result in comparison.results}
    best, *others = sorted(comparison.results, key=lambda result: -mean(scores[result.contender]))
    choices = []
    for result in (best, *others):
        own = scores[result.contender]
        differences = [] if result is best else _between(best, result)
        choice = Choice(
            contender=result.contender,
            score=mean(own),
            spread=stdev(own) if len(own) > 1 else math.nan,
            against_best={change.task: change for change in differences if change.task in headlines},
        )
        choices.append(choice)
    return choices


def _scores(result: ContenderResult, headlines: Sequence[str], domain_share: float) -> list[float]:
    """Return the selection score of every seed."""
    domain, *general = headlines
    return [
        selection_score(
            run.evaluations["selection-base"],
            run.evaluations["selection-final"],
            domain=domain,
            general=general[0] if general else "",
            domain_share=domain_share,
        )
        for run in result.runs
    ]
