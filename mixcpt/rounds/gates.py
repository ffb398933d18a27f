"""Whether a candidate may serve: each gate held against what was measured, task by task."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mixcpt.config import EvaluateConfig, Gate
from mixcpt.evaluate import TaskDelta, compare
from mixcpt.evaluate.statistics.deltas import Measure
from mixcpt.store.artifacts import ArtifactRef


@dataclass(frozen=True)
class Judgement:
    """One gate on one task."""

    gate: str
    severity: Literal["block", "warn"]
    task: str
    against: Literal["base", "champion"]
    metric: str
    before: float
    """Of the model that the candidate is held against."""
    after: float
    """Of the candidate."""
    gain: float
    """How much better the candidate is, below 0 where it is worse."""
    low: float
    high: float
    """Interval of the gain."""
    rule: str
    at_least: float
    split: str
    """Which questions were asked."""
    holds: bool

    @property
    def blocks(self) -> bool:
        """Whether this alone refuses the candidate."""
        return self.severity == "block" and not self.holds

    def to_json(self) -> dict[str, Any]:
        return {name: None if _is_nan(value) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Judgement":
        fields: dict[str, Any] = {name: math.nan if value is None else value for name, value in data.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Measured:
    """The evaluations that gates look at, all of the same questions."""

    base: ArtifactRef
    champion: ArtifactRef
    """Of the base, where nothing serves yet."""
    candidate: ArtifactRef


def judge(
    gates: Sequence[Gate],
    measured: Measured,
    tasks: Mapping[str, Sequence[str]],
    config: EvaluateConfig,
    *,
    seed: int,
) -> list[Judgement]:
    """Returns every gate on every task that it is about; a gate whose tasks do not exist (yet) holds.

    Args:
        gates: What must hold.
        measured: What the models answered.
        tasks: Names of the tasks that are `new`, `earlier` and `general`.
        config: How sure intervals are, and which split was asked.
        seed: Draws their resamples.
    """
    gains = {
        (against, measure): _gains(getattr(measured, against), measured.candidate, measure, config, seed)
        for against, measure in {(gate.against, _MEASURES[gate.measure]) for gate in gates}
    }
    return [
        _judgement(gate, change, config.split)
        for gate in gates
        for name in _asked(gate, tasks)
        if (change := gains[gate.against, _MEASURES[gate.measure]].get(name))
    ]


_MEASURES: Mapping[str, Measure] = {"answers": "value", "gold": "gold"}


def _gains(
    before: ArtifactRef, candidate: ArtifactRef, measure: Measure, config: EvaluateConfig, seed: int
) -> dict[str, TaskDelta]:
    changes = compare(
        before,
        candidate,
        confidence=config.confidence,
        num_resamples=config.num_resamples,
        seed=seed,
        across_forms=True,  # a base that knows no chat is asked in plain text
        measure=measure,
    )
    return {change.task: change for change in changes}


def _asked(gate: Gate, tasks: Mapping[str, Sequence[str]]) -> list[str]:
    chosen = [name for group, names in tasks.items() if gate.tasks in (group, "all") for name in names]
    return [name for name in chosen if not gate.only or name in gate.only]


def _judgement(gate: Gate, change: TaskDelta, split: str) -> Judgement:
    sign = 1 if change.higher_is_better else -1
    low, high = sorted((sign * change.low, sign * change.high))
    gain = sign * change.delta
    decisive = {"sure": low, "likely": gain, "possible": high}[gate.rule]
    reaches = decisive > gate.at_least if gate.rule == "sure" else decisive >= gate.at_least
    return Judgement(
        gate=gate.name,
        severity=gate.severity,
        task=change.task,
        against=gate.against,
        metric=change.metric,
        before=change.base,
        after=change.value,
        gain=gain,
        low=low,
        high=high,
        rule=gate.rule,
        at_least=gate.at_least,
        split=split,
        holds=reaches,  # False for an interval that nobody could compute
    )


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
