"""Gates: every rule compares its end of the interval with the bound, for metrics of both directions."""

import math
from pathlib import Path
from typing import Any

import pytest

from mixcpt.config import EvaluateConfig, Gate
from mixcpt.records.round import Judgement
from mixcpt.rounds.gates import GateEvaluations, judge
from mixcpt.store.artifacts import ArtifactRef
from tasks.rounds import verdict_of_gates
from tests.unit.evaluation_artifacts import evaluation

TASKS = {"new": ["fresh"], "earlier": ["old"], "general": ["other"]}


def answers(folder: Path, name: str, shares: dict[str, float], metric: str = "accuracy") -> ArtifactRef:
    """200 items a task, of which the first ones are right."""
    items = {
        task: [
            (f"{task}-{n:03}", float(n < round(200 * share)) if metric == "accuracy" else share, 1.0)
            for n in range(200)
        ]
        for task, share in shares.items()
    }
    return evaluation(folder, name, items, metric=metric)


def judged(folder: Path, gate: Gate, before: float, after: float, metric: str = "accuracy") -> list[Judgement]:
    base = answers(folder, "base", {"fresh": before, "old": before, "other": before}, metric)
    candidate = answers(folder, "candidate", {"fresh": after, "old": after, "other": after}, metric)
    return judge([gate], GateEvaluations(base, base, candidate), TASKS, EvaluateConfig(), seed=0)


@pytest.mark.parametrize(
    ("rule", "at_least", "after", "holds"),
    [
        ("sure", 0.0, 0.60, True),
        ("sure", 0.0, 0.505, False),  # better, and the interval holds zero
        ("sure", 0.05, 0.56, False),
        ("likely", 0.05, 0.56, True),
        ("likely", 0.0, 0.495, False),
        ("likely", -0.02, 0.485, True),
        ("likely", -0.02, 0.475, False),
        ("possible", 0.0, 0.495, True),  # worse, and perhaps by chance
        ("possible", 0.0, 0.40, False),
    ],
)
def test_gate_rule_decides_which_end_has_to_reach_the_bound(
    tmp_path: Path, rule: str, at_least: float, after: float, holds: bool
) -> None:
    gate = Gate.model_validate({"name": "g", "tasks": "new", "rule": rule, "at_least": at_least})
    (one,) = judged(tmp_path, gate, 0.5, after)
    assert one.holds is holds
    assert one.gain == pytest.approx(after - 0.5)
    assert one.low <= one.gain <= one.high


@pytest.mark.parametrize(("after", "holds"), [(1.8, True), (2.2, False)])
def test_gate_counts_upwards_where_lower_is_better(tmp_path: Path, after: float, holds: bool) -> None:
    (one,) = judged(tmp_path, Gate(name="g", tasks="new"), 2.0, after, "bits_per_byte")
    assert one.holds is holds
    assert one.gain == pytest.approx(2.0 - after)


@pytest.mark.parametrize(
    ("tasks", "only", "asked"),
    [("new", (), ["fresh"]), ("all", (), ["fresh", "old", "other"]), ("all", ("old",), ["old"]), ("new", ("old",), [])],
)
def test_gate_covers_only_its_tasks(tmp_path: Path, tasks: str, only: tuple[str, ...], asked: list[str]) -> None:
    gate = Gate.model_validate({"name": "g", "tasks": tasks, "only": only})
    assert [one.task for one in judged(tmp_path, gate, 0.5, 0.5)] == asked


@pytest.mark.parametrize(("severity", "blocks"), [("block", True), ("warn", False)])
def test_gate_that_warns_does_not_block(tmp_path: Path, severity: str, blocks: bool) -> None:
    gate = Gate.model_validate({"name": "g", "tasks": "earlier", "severity": severity})
    (one,) = judged(tmp_path, gate, 0.5, 0.3)
    assert not one.holds
    assert one.blocks is blocks
    assert Judgement.from_json(one.to_json()) == one


def test_gate_against_the_base_ignores_the_champion(tmp_path: Path) -> None:
    base, champion, candidate = (
        answers(tmp_path, name, {"fresh": 0.5, "old": 0.5, "other": share})
        for name, share in (("base", 0.9), ("champion", 0.5), ("candidate", 0.6))
    )
    gates = [Gate(name="since-base", against="base"), Gate(name="since-champion")]
    held = judge(gates, GateEvaluations(base, champion, candidate), TASKS, EvaluateConfig(), seed=0)
    assert {one.gate: (one.holds, one.before) for one in held} == {
        "since-base": (False, pytest.approx(0.9)),
        "since-champion": (True, pytest.approx(0.5)),
    }


def test_refusal_names_failed_gates_and_missing_intervals() -> None:
    figures: dict[str, Any] = {
        "metric": "accuracy",
        "before": 0.5,
        "after": 0.25,
        "gain": -0.25,
        "at_least": 0.0,
        "split": "report",
    }
    rows: list[tuple[str, str, str, float, float]] = [
        ("keeps", "kept", "likely", -0.5, 0.1),
        ("learns", "use", "sure", math.nan, math.nan),
    ]
    judged = [
        Judgement(
            gate=gate,
            severity="block",
            task=task,
            against="champion",
            low=low,
            high=high,
            rule=rule,
            holds=False,
            **figures,
        )  # type: ignore[arg-type]
        for gate, task, rule, low, high in rows
    ]
    verdict = verdict_of_gates(judged)
    assert verdict.decision == "refused"
    assert verdict.reason == (
        "keeps fails on kept (−25.0 points) and learns fails on use (−25.0 points, of too few items for an interval)."
    )
    assert verdict_of_gates([]).decision == "promoted"
