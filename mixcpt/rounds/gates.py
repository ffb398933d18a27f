"""Gates: compares a candidate's evaluations with the required gains, task by task, before it may be served.

A gate on general tasks that finds none cannot judge forgetting, so it does not hold.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mixcpt.config import EvaluateConfig, Gate
from mixcpt.evaluate import TaskDelta, compare
from mixcpt.evaluate.statistics.deltas import Measure
from mixcpt.records.round import Judgement
from mixcpt.store.artifacts import ArtifactRef

_MEASURES: Mapping[str, Measure] = {"answers": "value", "gold": "gold"}


@dataclass(frozen=True)
class GateEvaluations:
    """The evaluations that gates compare, all on the same questions."""

    base: ArtifactRef
    champion: ArtifactRef
    """Evaluation of the served model; of the base if none is served yet."""
    candidate: ArtifactRef


def judge(
    gates: Sequence[Gate],
    evaluations: GateEvaluations,
    tasks: Mapping[str, Sequence[str]],
    config: EvaluateConfig,
    *,
    seed: int,
) -> list[Judgement]:
    """Return the result of every gate on each of its tasks.

    A gate without existing tasks gives no result, because there is nothing yet that it could protect: the first round
    has no earlier corpus. A gate on general tasks always has a result; without a general task it does not hold.

    Args:
        tasks: Names of the `new`, `earlier` and `general` tasks.
        config: Settings of the intervals, and the split of the questions.
    """
    comparisons = {(gate.against, _MEASURES[gate.measure]) for gate in gates}
    changes = {comparison: _changes(evaluations, *comparison, config=config, seed=seed) for comparison in comparisons}
    judgements = []
    for gate in gates:
        gate_changes = changes[gate.against, _MEASURES[gate.measure]]
        names = [name for name in _task_names(gate, tasks) if name in gate_changes]
        judgements += [_judgement(gate, gate_changes[name], config.split) for name in names]
        if not gate.can_judge([name for name in tasks["general"] if name in gate_changes]):
            judgements.append(_unjudged(gate, config.split))
    return judgements


def _changes(
    evaluations: GateEvaluations,
    against: Literal["base", "champion"],
    measure: Measure,
    *,
    config: EvaluateConfig,
    seed: int,
) -> dict[str, TaskDelta]:
    changes = compare(
        evaluations.base if against == "base" else evaluations.champion,
        evaluations.candidate,
        confidence=config.confidence,
        num_resamples=config.num_resamples,
        seed=seed,
        across_forms=True,  # a base without chat template is evaluated in plain form
        measure=measure,
    )
    return {change.task: change for change in changes}


def _task_names(gate: Gate, tasks: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for group, names in tasks.items():
        if gate.tasks in (group, "all"):
            yield from (name for name in names if not gate.only or name in gate.only)


def _judgement(gate: Gate, change: TaskDelta, split: str) -> Judgement:
    sign = 1 if change.higher_is_better else -1
    low, high = sorted((sign * change.low, sign * change.high))
    gain = sign * change.delta
    decisive = {"sure": low, "likely": gain, "possible": high}[gate.rule]
    if gate.rule == "sure":
        # a gain between two models that both guess is no gain
        holds = decisive > gate.at_least and not (gate.at_least >= 0 and change.is_at_chance)
    else:
        holds = decisive >= gate.at_least
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
        holds=holds,  # False if the interval is NaN
        passages=change.passages,
        chance=change.chance if change.metric == "accuracy" else 0.0,
        is_at_chance=change.is_at_chance,
    )


def _unjudged(gate: Gate, split: str) -> Judgement:
    """Return the result of a gate that found no general task: it does not hold."""
    return Judgement(
        gate=gate.name,
        severity=gate.severity,
        task="",
        against=gate.against,
        metric="",
        before=math.nan,
        after=math.nan,
        gain=math.nan,
        low=math.nan,
        high=math.nan,
        rule=gate.rule,
        at_least=gate.at_least,
        split=split,
        holds=False,
    )
