"""What a comparison says about the claims that were written down before it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mixcpt.config import Claim
from mixcpt.evaluate.statistics.across_seeds import SeedsDelta, across_seeds
from mixcpt.evaluate.statistics.estimates import holm
from mixcpt.records.comparison import Comparison

Verdict = Literal["holds", "does not hold", "not shown"]


@dataclass(frozen=True)
class Examined:
    """A claim and what was found."""

    claim: Claim
    change: SeedsDelta
    """Of the contender against the other one, or against the base, on the claim's task."""
    verdict: Verdict
    """`holds` or `does not hold` where the whole interval says so, else `not shown`."""
    p_holm: float
    """That there is no difference at all, corrected for the number of claims."""


def examined(comparison: Comparison) -> list[Examined]:
    """Returns the claims of a comparison in their order, each with its verdict."""
    found = [_examined(claim, comparison) for claim in comparison.config.claims]
    adjusted = holm([one.change.p_value for one in found]) if found else []
    return [replace(one, p_holm=p_value) for one, p_value in zip(found, adjusted, strict=True)]


def _examined(claim: Claim, comparison: Comparison) -> Examined:
    runs = {result.contender: result.runs for result in comparison.results}
    confidence = runs[claim.contender][0].config.evaluate.confidence
    after = [run.evaluations["final"] for run in runs[claim.contender]]
    if claim.against:
        changes = across_seeds([run.evaluations["final"] for run in runs[claim.against]], after, confidence=confidence)
    else:
        bases = [run.evaluations["base"] for run in runs[claim.contender]]
        changes = across_seeds(bases, after, confidence=confidence, across_forms=True)
    change = next(change for change in changes if change.task == claim.task)
    return Examined(claim, change, _verdict(claim, change), change.p_value)


def _verdict(claim: Claim, change: SeedsDelta) -> Verdict:
    ends: Sequence[float] = (change.low, change.high)
    if not change.higher_is_better:
        ends = (-change.high, -change.low)
    if ends[0] > claim.by:
        return "holds"
    return "does not hold" if ends[1] < claim.by else "not shown"
