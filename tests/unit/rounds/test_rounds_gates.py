"""Gates: every rule compares its end of the interval with the bound, for metrics of both directions."""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mixcpt.config import EvaluateConfig, Gate, ReadaptConfig
from mixcpt.records.round import Judgement
from mixcpt.report.rounds import gate_interval
from mixcpt.rounds.gates import GateEvaluations, judge
from mixcpt.store.artifacts import ArtifactRef
from tasks.rounds import gate_rows, verdict_of_gates
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


def few_answers(folder: Path, name: str, share: float, *, num_passages: int, chance: float = 0.0) -> ArtifactRef:
    """200 items of every task about a number of passages, of which the first ones are right."""
    items = {
        task: [(f"{task}-{n:03}", float(n < round(200 * share)), 1.0) for n in range(200)]
        for task in ("fresh", "old", "other")
    }
    return evaluation(folder, name, items, per_passage=200 // num_passages, chance=chance)


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


@pytest.mark.parametrize(("tasks", "only"), [("general", ()), ("all", ()), ("general", ("nothing",))])
@pytest.mark.parametrize(("severity", "decision"), [("block", "refused"), ("warn", "promoted")])
def test_gate_without_general_task_cannot_judge_and_does_not_hold(
    tmp_path: Path, tasks: str, only: tuple[str, ...], severity: str, decision: str
) -> None:
    gate = Gate.model_validate({"name": "keeps", "tasks": tasks, "only": only, "severity": severity})
    base = answers(tmp_path, "base", {"fresh": 0.5})
    candidate = answers(tmp_path, "candidate", {"fresh": 0.9})
    groups: dict[str, list[str]] = {"new": ["fresh"], "earlier": [], "general": []}
    *_, one = judge([gate], GateEvaluations(base, base, candidate), groups, EvaluateConfig(), seed=0)
    assert (one.is_judged, one.holds, one.blocks) == (False, False, severity == "block")
    assert Judgement.from_json(one.to_json()).to_json() == one.to_json()
    verdict = verdict_of_gates([one])
    assert verdict.decision == decision
    assert "keeps cannot judge forgetting, because no task is general" in verdict.reason
    assert "cannot judge" in gate_rows([one])[0]["holds"].lower()


def test_gate_on_gold_answers_cannot_judge_by_texts(tmp_path: Path) -> None:
    base, candidate = (answers(tmp_path, name, {"other": 2.0}, "bits_per_byte") for name in ("base", "candidate"))
    gate = Gate(name="keeps", tasks="general", measure="gold")
    groups: dict[str, list[str]] = {"new": [], "earlier": [], "general": ["other"]}
    (one,) = judge([gate], GateEvaluations(base, base, candidate), groups, EvaluateConfig(), seed=0)
    assert not one.is_judged


def test_gate_on_few_passages_has_no_interval_and_says_so(tmp_path: Path) -> None:
    base = few_answers(tmp_path, "base", 0.3, num_passages=5)
    candidate = few_answers(tmp_path, "candidate", 0.9, num_passages=5)
    gates = [Gate(name="learns", tasks="new", rule="sure"), Gate(name="keeps", tasks="general", at_least=-0.05)]
    learns, keeps = judge(gates, GateEvaluations(base, base, candidate), TASKS, EvaluateConfig(), seed=0)
    assert (learns.holds, learns.passages, keeps.holds) == (False, 5, True)
    assert verdict_of_gates([learns, keeps]).reason == (
        "learns fails on fresh (+60.0 points, of 5\xa0passages, too few for an interval)."
    )
    assert verdict_of_gates([keeps]).reason == (
        "The gate keeps holds. Without an interval: keeps on other (5\xa0passages, too few)."
    )
    (row,) = gate_rows([learns])
    assert (row["low"], row["high"], row["passages"]) == (None, None, 5)
    assert gate_interval(learns) == "5\xa0passages"


def test_gain_between_two_guessing_models_is_no_gain(tmp_path: Path) -> None:
    base = few_answers(tmp_path, "base", 0.2, num_passages=200, chance=0.25)
    candidate = few_answers(tmp_path, "candidate", 0.3, num_passages=200, chance=0.25)
    gate = Gate(name="learns", tasks="new", rule="sure")
    (one,) = judge([gate], GateEvaluations(base, base, candidate), TASKS, EvaluateConfig(), seed=0)
    assert one.low > 0, "the interval excludes zero, because the same items are right"
    assert (one.is_at_chance, one.holds) == (True, False)
    assert "at chance, which is 25.0" in verdict_of_gates([one]).reason
    assert gate_interval(one) == "at chance (25.0\xa0%)"


def test_rounds_without_general_task_are_refused_before_any_work() -> None:
    task = {"kind": "closed_world", "name": "use"}
    evaluate = {"tasks": [task], "headline_domain": "use", "headline_general": ""}
    settings: dict[str, Any] = {"adapt": {"evaluate": evaluate}}
    with pytest.raises(ValidationError, match="keeps-general, keeps-since-base cannot judge forgetting"):
        ReadaptConfig.model_validate(settings)
    gates = [{"name": "learns", "tasks": "new"}, {"name": "keeps", "tasks": "general", "severity": "warn"}]
    assert ReadaptConfig.model_validate({**settings, "gates": gates}).gates[1].severity == "warn"
    texts = {"kind": "bits_per_byte", "name": "texts", "group": "general", "path": "shipped"}
    with_texts = {"adapt": {"evaluate": {**evaluate, "tasks": [task, texts]}}}
    assert ReadaptConfig.model_validate(with_texts)
    with pytest.raises(ValidationError, match="measure: gold"):
        ReadaptConfig.model_validate({**with_texts, "gates": [{"name": "keeps", "measure": "gold"}]})


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
