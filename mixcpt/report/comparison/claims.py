"""Results of the claims that were written down before a comparison."""

from dataclasses import dataclass, replace
from typing import Literal

from mixcpt.config import Claim
from mixcpt.evaluate.statistics.across_seeds import SeedsDelta, across_seeds
from mixcpt.evaluate.statistics.estimates import holm
from mixcpt.records.comparison import Comparison

Verdict = Literal["holds", "does not hold", "not shown"]


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


def check_claims(comparison: Comparison) -> list[ClaimResult]:
    """Return the results of a comparison's claims in their order."""
    results = [_check(claim, comparison) for claim in comparison.config.claims]
    adjusted = holm([result.change.p_value for result in results]) if results else []
    return [replace(result, p_holm=p_value) for result, p_value in zip(results, adjusted, strict=True)]


def _check(claim: Claim, comparison: Comparison) -> ClaimResult:
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
