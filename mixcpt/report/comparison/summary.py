"""The numbers of a comparison: every contender on every task over all seeds, its price, the front, a recommendation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from mixcpt.evaluate.statistics.across_seeds import SeedsDelta, across_seeds
from mixcpt.evaluate.statistics.selection_score import gain, score
from mixcpt.records.comparison import Comparison, ContenderResult, TriedValue
from mixcpt.report import words
from mixcpt.report.comparison.claims import Examined, examined
from mixcpt.report.sections.costs import Cost, stage_costs, total
from mixcpt.report.sections.promise import is_kept
from mixcpt.stages.registry import trained_roles


@dataclass(frozen=True)
class Row:
    """One contender over all of its seeds."""

    contender: str
    method: str
    value: float
    """Of the searched setting."""
    changes: Mapping[str, SeedsDelta]
    """By task, the headline tasks first, against the base."""
    against_first: Mapping[str, SeedsDelta]
    """By task, against the first contender, paired by seed; empty for the first."""
    learned: float
    """Gain on the headline task of the domain, as `mixcpt.evaluate.statistics.selection_score` counts it."""
    kept: float
    """The same of the general one: 0 at best in most cases, below 0 where something is forgotten."""
    is_on_front: bool
    """Whether no other contender has learned more and kept more."""
    cost: Cost
    """Of one training, the mean over the seeds."""


@dataclass(frozen=True)
class Chosen:
    """What a contender is chosen by: its trainings on the selection split, whose questions are not reported."""

    contender: str
    score: float
    """Mean over the seeds; `mixcpt.evaluate.statistics.selection_score` says of what."""
    spread: float
    """Standard deviation from seed to seed; NaN for one seed."""


@dataclass(frozen=True)
class Kept:
    """How often a contender lost no more of a skill than was promised, whether by itself or by another contender."""

    contender: str
    task: str
    max_loss: float
    is_own: bool
    """Whether it promised that itself."""
    num_kept: int
    """In how many of its trainings."""
    worst: float
    """Change of the training that lost most."""


@dataclass(frozen=True)
class ComparisonSummary:
    """Everything that the page of a comparison says in numbers."""

    name: str
    base_name: str
    setting: str
    seeds: tuple[int, ...]
    equal: str
    """What every training got alike: `tokens` or `flops`."""
    confidence: float
    headline_domain: str
    headline_general: str
    rows: Sequence[Row]
    tried: Sequence[TriedValue]
    choice: Sequence[Chosen]
    """All contenders on the selection split, the best one first."""
    claims: Sequence[Examined]
    promises: Sequence[Kept]
    """Every contender held to what any of them promised."""


def summarise_comparison(comparison: Comparison) -> ComparisonSummary:
    """Returns the summary of a comparison.

    Raises:
        DataError: If its trainings were not asked the same in the same way.
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
        rows=_with_front(rows),
        tried=comparison.tried,
        choice=_choice(comparison),
        claims=examined(comparison),
        promises=_kept(comparison, rows),
    )


def recommendation(summary: ComparisonSummary) -> str:
    """Returns one paragraph: what to take, how sure that is, and at what price."""
    front = words.listing([words.printable(row.contender) for row in summary.rows if row.is_on_front])
    found = f"No contender learned more and kept more than {front}"
    best, *others = summary.choice
    row = next(row for row in summary.rows if row.contender == best.contender)
    said = [
        f"{found}. Recommended, by questions that are not reported here: {words.printable(row.contender)}"
        + (
            f" (score {_scored(best)}; next {words.printable(others[0].contender)}, {_scored(others[0])})"
            * bool(others)
        )
        + f". On the reported ones, over {len(summary.seeds)} seeds, it changed "
        + words.listing([_said(row.changes[task], summary) for task in _headlines(summary)])
    ]
    if row.against_first:
        against = [_said(row.against_first[task], summary) for task in _headlines(summary)]
        said.append(f"against {words.printable(summary.rows[0].contender)} that is {words.listing(against)}")
    return "; ".join(said) + "."


def comparison_rows(summary: ComparisonSummary) -> list[dict[str, Any]]:
    """Returns the table as plain data: one row a contender."""
    return [
        {"contender": row.contender, summary.setting.rpartition(".")[2]: row.value}
        | {
            f"{task} {name}": round(number, 4)
            for task in _headlines(summary)
            for name, number in _numbers(row.changes[task]).items()
        }
        | {
            "on the front": row.is_on_front,
            "tokens": row.cost.tokens,
            "flops": row.cost.flops,
            "seconds": row.cost.seconds,
        }
        for row in summary.rows
    ]


def markdown_comparison(summary: ComparisonSummary) -> str:
    """Returns the recommendation and the table as Markdown."""
    tasks = list(summary.rows[0].changes)
    heads = ["contender", summary.setting.rpartition(".")[2], *(words.title(task) for task in tasks), "compute", "time"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in summary.rows:
        cells = [_markdown(row.changes[task]) for task in tasks]
        price = [words.magnitude(row.cost.flops, "FLOP"), words.duration(row.cost.seconds)]
        name = words.printable(row.contender) + (" (front)" if row.is_on_front else "")
        lines.append("| " + " | ".join([name, f"{row.value:g}", *cells, *price]) + " |")
    return "\n".join(
        [recommendation(summary), "", *lines, *_markdown_claims(summary), *_markdown_promises(summary), ""]
    )


def _markdown_promises(summary: ComparisonSummary) -> list[str]:
    if not summary.promises:
        return []
    lines = ["", "| contender | skill | lost at most | kept | worst |", "|---|---|---:|---:|---:|"]
    for one in summary.promises:
        name = words.printable(one.contender) + ("" if one.is_own else " (promised nothing)")
        limit, worst = (words.change("accuracy", change) for change in (-one.max_loss, one.worst))
        kept = f"{one.num_kept} of {len(summary.seeds)}"
        lines.append(f"| {name} | {words.title(one.task)} | {limit} | {kept} | {worst} |")
    return lines


def _markdown_claims(summary: ComparisonSummary) -> list[str]:
    if not summary.claims:
        return []
    lines = ["", "| claim | verdict | difference |", "|---|---|---:|"]
    for one in summary.claims:
        low, high = (words.change(one.change.metric, end) for end in (one.change.low, one.change.high))
        difference = f"{words.change(one.change.metric, one.change.delta)} \\[{low}, {high}\\]"
        lines.append(f"| {words.printable(one.claim.statement)} | {one.verdict} | {difference} |")
    return lines


def _row(result: ContenderResult, first: ContenderResult, confidence: float) -> Row:
    finals = [run.evaluations["final"] for run in result.runs]
    bases = [run.evaluations["base"] for run in result.runs]
    against = []
    if result is not first:
        against = across_seeds([run.evaluations["final"] for run in first.runs], finals, confidence=confidence)
    settings = result.runs[0].config
    pairs = list(zip(bases, finals, strict=True))
    changes = across_seeds(bases, finals, confidence=confidence, across_forms=True)
    headlines = (settings.evaluate.headline_domain, settings.evaluate.headline_general)
    changes.sort(key=lambda change: change.task not in headlines)
    against.sort(key=lambda change: change.task not in headlines)
    return Row(
        contender=result.contender,
        method=settings.pretrain.method.kind,
        value=result.value,
        changes={change.task: change for change in changes},
        against_first={change.task: change for change in against},
        learned=mean(gain(base, final, settings.evaluate.headline_domain) for base, final in pairs),
        kept=mean(gain(base, final, settings.evaluate.headline_general) for base, final in pairs),
        is_on_front=False,
        cost=_mean_cost(result),
    )


def _kept(comparison: Comparison, rows: Sequence[Row]) -> list[Kept]:
    """Returns every contender beside every promise."""
    made = [(result.contender, result.runs[0].config) for result in comparison.results]
    own = {(name, task): of.pretrain.retention.max_loss for name, of in made for task in of.promised_tasks}
    promised = {task: min(limit for (_, other), limit in own.items() if other == task) for _, task in own}
    found = []
    for task, least in promised.items():
        for row in rows:
            limit = own.get((row.contender, task), least)
            change = row.changes[task]
            deltas = [value - base for value, base in zip(change.values, change.bases, strict=True)]
            kept = sum(is_kept(delta, limit) for delta in deltas)
            found.append(Kept(row.contender, task, limit, (row.contender, task) in own, kept, min(deltas)))
    return found


def _choice(comparison: Comparison) -> list[Chosen]:
    """Returns every contender with its score over all seeds, the best first."""
    found = []
    for result in comparison.results:
        settings = result.runs[0].config.evaluate
        scores = [
            score(
                run.evaluations["selection-base"],
                run.evaluations["selection-final"],
                domain=settings.headline_domain,
                general=settings.headline_general,
                domain_share=comparison.config.search.domain_share,
            )
            for run in result.runs
        ]
        found.append(Chosen(result.contender, mean(scores), stdev(scores) if len(scores) > 1 else math.nan))
    return sorted(found, key=lambda one: -one.score)


def _scored(chosen: Chosen) -> str:
    return words.score(chosen.score) + ("" if math.isnan(chosen.spread) else f" ± {chosen.spread:.3f}")


def _mean_cost(result: ContenderResult) -> Cost:
    totals = [total([cost for cost in stage_costs(run) if cost.stage in trained_roles()]) for run in result.runs]
    peaks = [cost.peak_memory_bytes or 0 for cost in totals]
    return Cost(
        stage="training",
        seconds=mean(cost.seconds for cost in totals),
        tokens=round(mean(cost.tokens or 0 for cost in totals)),
        flops=mean(cost.flops or 0 for cost in totals),
        peak_memory_bytes=max(peaks) or None,
    )


def _with_front(rows: Sequence[Row]) -> list[Row]:
    def is_beaten(row: Row) -> bool:
        return any(
            other.learned >= row.learned
            and other.kept >= row.kept
            and (other.learned, other.kept) != (row.learned, row.kept)
            for other in rows
        )

    return [replace(row, is_on_front=not is_beaten(row)) for row in rows]


def _headlines(summary: ComparisonSummary) -> list[str]:
    return list(dict.fromkeys((summary.headline_domain, summary.headline_general)))


def _said(change: SeedsDelta, summary: ComparisonSummary) -> str:
    return (
        f"{words.title(change.task)} by {words.change(change.metric, change.delta)} {words.unit(change.metric)} "
        f"({words.level(summary.confidence)} interval {words.interval(change.metric, change.low, change.high)})"
    )


def _markdown(change: SeedsDelta) -> str:
    low, high = (words.change(change.metric, end) for end in (change.low, change.high))
    return f"{words.value(change.metric, change.value)} \\[{low}, {high}\\]"


def _numbers(change: SeedsDelta) -> dict[str, float]:
    return {"value": change.value, "change": change.delta, "low": change.low, "high": change.high}
