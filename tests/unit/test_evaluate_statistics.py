"""Intervals cover what they promise, tests match hand-worked cases, unlike evaluations are not compared."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mixcpt.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.errors import DataError
from mixcpt.evaluate import Retention, TaskDelta, compare, retention
from mixcpt.evaluate.statistics import estimate, mcnemar_p_value, paired_interval, signed_rank_p_value

Row = tuple[str, float, float]


def test_estimate_of_accuracy_is_the_mean_and_its_standard_error() -> None:
    value, stderr = estimate(np.array([1.0, 0.0, 1.0, 1.0]), np.ones(4))
    assert value == 0.75
    assert stderr == pytest.approx(0.5 / 2)  # sample deviation 0.5, four items


def test_estimate_of_bits_weighs_by_bytes_and_its_error_matches_simulation() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(50, 2000, size=(4000, 60)).astype(float)
    bits = weights * (2.0 + 0.3 * rng.standard_normal(weights.shape))
    ratios, errors = np.array([estimate(b, w) for b, w in zip(bits, weights, strict=True)]).T
    assert ratios[0] == pytest.approx(bits[0].sum() / weights[0].sum())
    assert errors.mean() == pytest.approx(ratios.std(), rel=0.05)


def test_estimate_of_one_item_has_no_error() -> None:
    value, stderr = estimate(np.array([3.0]), np.array([2.0]))
    assert value == 1.5
    assert math.isnan(stderr)


@pytest.mark.parametrize("metric", ["accuracy", "bits_per_byte"])
def test_paired_interval_covers_the_true_difference_about_as_often_as_promised(metric: str) -> None:
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(300):
        before, after, weights, truth = simulate(metric, 150, rng)
        low, high = paired_interval(before, after, weights, confidence=0.9, num_resamples=400, rng=rng)
        hits += low <= truth <= high
    assert 0.85 <= hits / 300 <= 0.95


def test_paired_interval_is_narrower_than_the_unpaired_error_allows() -> None:
    rng = np.random.default_rng(2)
    before, after, weights, _ = simulate("accuracy", 1000, rng)
    low, high = paired_interval(before, after, weights, confidence=0.95, num_resamples=1000, rng=rng)
    unpaired = 2 * 1.96 * math.hypot(estimate(before, weights)[1], estimate(after, weights)[1])
    normal = 2 * 1.96 * (after - before).std(ddof=1) / math.sqrt(1000)
    assert high - low == pytest.approx(normal, rel=0.1)
    assert high - low < 0.8 * unpaired


def test_paired_interval_around_a_planted_zero_holds_zero() -> None:
    rng = np.random.default_rng(3)
    before = rng.integers(0, 2, 500).astype(float)
    after = before.copy()
    after[rng.choice(np.flatnonzero(before == 1), 30, replace=False)] = 0
    after[rng.choice(np.flatnonzero(before == 0), 30, replace=False)] = 1
    low, high = paired_interval(before, after, np.ones(500), confidence=0.95, num_resamples=2000, rng=rng)
    assert low < 0 < high
    assert low == pytest.approx(-high, abs=0.01)


def test_paired_interval_of_equal_answers_is_zero_and_of_one_item_unknown() -> None:
    rng = np.random.default_rng(4)
    same = np.array([1.0, 0.0, 1.0])
    assert paired_interval(same, same, np.ones(3), confidence=0.95, num_resamples=100, rng=rng) == (0.0, 0.0)
    assert all(
        math.isnan(end)
        for end in paired_interval(same[:1], same[:1], np.ones(1), confidence=0.95, num_resamples=100, rng=rng)
    )


def test_mcnemar_matches_the_binomial_tail_worked_by_hand() -> None:
    # 8 gained, 2 lost: 2 * (C(10,0) + C(10,1) + C(10,2)) / 2^10 = 2 * 56 / 1024
    assert mcnemar_p_value(8, 2) == pytest.approx(112 / 1024)
    assert mcnemar_p_value(2, 8) == pytest.approx(112 / 1024)
    assert mcnemar_p_value(5, 0) == pytest.approx(2 / 32)
    assert mcnemar_p_value(3, 3) == 1.0
    assert mcnemar_p_value(0, 0) == 1.0


def test_signed_rank_matches_the_exact_case_worked_by_hand() -> None:
    # six differences, all of one sign: 2 of the 2^6 sign patterns are as extreme
    before = np.zeros(6)
    assert signed_rank_p_value(before, np.arange(1.0, 7.0)) == pytest.approx(2 / 64)
    assert signed_rank_p_value(before, before) == 1.0


def test_compare_counts_flips_and_pairs_by_item_whatever_the_order(tmp_path: Path) -> None:
    base = evaluation(tmp_path, "base", {"t": [("a", 1, 1), ("b", 0, 1), ("c", 0, 1), ("d", 1, 1)]})
    model = evaluation(tmp_path, "model", {"t": [("d", 1, 1), ("c", 1, 1), ("b", 1, 1), ("a", 0, 1)]})
    (delta,) = compare(base, model, confidence=0.95, num_resamples=200, seed=0)
    assert (delta.n, delta.base, delta.value, delta.delta) == (4, 0.5, 0.75, 0.25)
    assert (delta.gained, delta.lost, delta.p_value) == (2, 1, 1.0)
    assert delta.low <= delta.delta <= delta.high


def test_compare_of_bits_weighs_texts_by_their_bytes(tmp_path: Path) -> None:
    base = evaluation(tmp_path, "base", {"bits": [("a", 20, 10), ("b", 1000, 1000)]}, metric="bits_per_byte")
    model = evaluation(tmp_path, "model", {"bits": [("a", 10, 10), ("b", 900, 1000)]}, metric="bits_per_byte")
    (delta,) = compare(base, model, confidence=0.95, num_resamples=200, seed=0)
    assert delta.delta == pytest.approx(910 / 1010 - 1020 / 1010)
    assert not delta.higher_is_better
    assert (delta.gained, delta.lost) == (0, 0)


def test_compare_is_repeatable_and_a_task_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    one, two = ([(f"i{n}", float(rng.integers(2)), 1) for n in range(50)] for _ in range(2))
    both = [evaluation(tmp_path, name, {"x": rows, "y": rows}) for name, rows in (("b", one), ("m", two))]
    alone = [evaluation(tmp_path, f"{name}-alone", {"y": rows}) for name, rows in (("b", one), ("m", two))]
    first = compare(both[0], both[1], confidence=0.9, num_resamples=300, seed=7)
    assert first == compare(both[0], both[1], confidence=0.9, num_resamples=300, seed=7)
    assert first[1:] == compare(alone[0], alone[1], confidence=0.9, num_resamples=300, seed=7)
    assert first != compare(both[0], both[1], confidence=0.9, num_resamples=300, seed=8)


@pytest.mark.parametrize(
    ("tasks", "problem"),
    [
        ({"t": [("a", 1, 1), ("c", 0, 1)]}, "the items of task t differ.*1 only in the first, 1 only in the second"),
        ({"t": [("a", 1, 1)]}, "the items of task t differ.*1 only in the first, 0 only in the second, e.g. b"),
        ({"u": [("a", 1, 1), ("b", 0, 1)]}, "the tasks differ"),
        ({"t": [("a", 1, 1), ("b", 0, 2)]}, "item b has another right answer or length"),
    ],
)
def test_compare_refuses_evaluations_that_asked_other_things(
    tmp_path: Path, tasks: dict[str, list[Row]], problem: str
) -> None:
    base = evaluation(tmp_path, "base", {"t": [("a", 1, 1), ("b", 0, 1)]})
    with pytest.raises(DataError, match=problem):
        compare(base, evaluation(tmp_path, "model", tasks), confidence=0.95, num_resamples=100, seed=0)


def test_task_delta_survives_strict_json() -> None:
    delta = TaskDelta("t", "domain", "accuracy", True, 1, 0.5, 1.0, 0.5, math.nan, math.nan, 1.0, 1, 0)
    text = json.dumps(delta.to_json(), allow_nan=False)
    again = TaskDelta.from_json(json.loads(text))
    assert again.to_json() == delta.to_json()
    assert math.isnan(again.low)


def test_retention_does_not_let_gains_hide_losses() -> None:
    deltas = [
        delta_of("domain", 0.8),
        delta_of("domain", 0.4),
        delta_of("general", -0.3),
        delta_of("general", 0.1),
        delta_of("general", -9.0, metric="bits_per_byte"),
    ]
    summary = retention(deltas)
    assert summary.domain_mean_delta == pytest.approx(0.6)
    assert summary.general_mean_delta == pytest.approx(-0.1)
    assert summary.general_mean_loss == pytest.approx(0.15)
    assert Retention.from_json(json.loads(json.dumps(summary.to_json()))) == summary


def test_retention_of_a_group_without_tasks_is_unknown() -> None:
    summary = retention([delta_of("domain", 0.5)])
    assert summary.to_json() == {"domain_mean_delta": 0.5, "general_mean_delta": None, "general_mean_loss": None}
    assert math.isnan(Retention.from_json(summary.to_json()).general_mean_loss)


def simulate(metric: str, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Returns answers of two models to items of shared difficulty, their weights, and the true difference."""
    if metric == "accuracy":
        # easy, hard and middling items: (share, right before, right after)
        share, before, after = np.array([0.5, 0.3, 0.2]), np.array([0.95, 0.1, 0.4]), np.array([0.97, 0.15, 0.7])
        kind = rng.choice(3, size, p=share)
        answers = [(rng.random(size) < chance[kind]).astype(float) for chance in (before, after)]
        return answers[0], answers[1], np.ones(size), float(share @ (after - before))
    weights = rng.integers(200, 3000, size).astype(float)
    hardness = 2.0 + 0.5 * rng.standard_normal(size)
    gain = -0.1 + 0.2 * rng.standard_normal(size)
    return weights * hardness, weights * (hardness + gain), weights, -0.1


def evaluation(folder: Path, name: str, tasks: dict[str, Sequence[Row]], *, metric: str = "accuracy") -> ArtifactRef:
    rows = [
        {"task": task, "item_id": item, "group": "domain", "metric": metric, "value": float(value)}
        | {"weight": float(weight), "prompt": "", "answer": "", "gold": ""}
        for task, items in tasks.items()
        for item, value, weight in items
    ]
    summary = {"tasks": [{"task": task, "higher_is_better": metric == "accuracy"} for task in tasks]}

    def build(directory: Path) -> dict[str, float]:
        pd.DataFrame(rows).to_parquet(directory / "items.parquet")
        (directory / "summary.json").write_text(json.dumps(summary))
        return {}

    return ArtifactStore(folder / "store").produce(StageKey("evaluation", 1, name), build)


def delta_of(group: str, delta: float, *, metric: str = "accuracy") -> TaskDelta:
    return TaskDelta("t", group, metric, True, 10, 0.5, 0.5 + delta, delta, delta, delta, 0.5, 0, 0)
