"""Comparisons pair item by item, count passages instead of items, and refuse different conditions."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from mixcpt.errors import DataError
from mixcpt.evaluate import TaskDelta, compare, drift
from mixcpt.evaluate.statistics.across_seeds import across_seeds
from mixcpt.evaluate.statistics.estimates import mcnemar_p_value
from mixcpt.evaluate.statistics.outcomes import retention
from tests.unit.evaluation_artifacts import Row, evaluation


def test_compare_counts_flips_and_pairs_by_item_whatever_the_order(tmp_path: Path) -> None:
    base = evaluation(tmp_path, "base", {"t": [("a", 1, 1), ("b", 0, 1), ("c", 0, 1), ("d", 1, 1)]})
    model = evaluation(tmp_path, "model", {"t": [("d", 1, 1), ("c", 1, 1), ("b", 1, 1), ("a", 0, 1)]})
    (delta,) = compare(base, model, confidence=0.95, num_resamples=200, seed=0)
    assert (delta.n, delta.base, delta.value, delta.delta) == (4, 0.5, 0.75, 0.25)
    assert (delta.gained, delta.lost) == (2, 1)


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


def test_compare_of_several_questions_about_a_passage_is_less_sure(tmp_path: Path) -> None:
    """Thirty passages whose four questions flip together are thirty pieces of evidence, not 120."""
    flips = [number < 6 for number in range(30)]
    rows_before = [(f"i{p:02}{k}", 0.0, 1) for p, k in product(range(30), range(4))]
    rows_after = [(f"i{p:02}{k}", float(flips[p]), 1) for p, k in product(range(30), range(4))]
    found = {
        size: compare(
            *(
                evaluation(tmp_path, f"{name}-{size}", {"t": rows}, per_passage=size)
                for name, rows in (("b", rows_before), ("m", rows_after))
            ),
            confidence=0.95,
            num_resamples=2000,
            seed=0,
        )[0]
        for size in (1, 4)
    }
    assert (found[1].passages, found[4].passages) == (120, 30)
    assert found[1].delta == found[4].delta == 0.2
    width = {size: change.high - change.low for size, change in found.items()}
    assert width[4] == pytest.approx(2 * width[1], rel=0.15)  # a quarter of the evidence
    assert found[1].p_value == pytest.approx(mcnemar_p_value(24, 0))
    assert found[4].p_value == pytest.approx(2 / 2**6)  # six passages, all of one sign
    assert found[4].detectable == pytest.approx(2 * found[1].detectable, rel=0.05)


def test_compare_corrects_for_the_number_of_tasks(tmp_path: Path) -> None:
    right, wrong = ([(f"i{n}", value, 1) for n in range(12)] for value in (1.0, 0.0))
    tasks = {"a": (wrong, right), "b": (right, right), "c": (wrong[:4] + right[4:], right)}
    base, model = (
        evaluation(tmp_path, name, {task: rows[place] for task, rows in tasks.items()})
        for place, name in enumerate(("base", "model"))
    )
    found = compare(base, model, confidence=0.95, num_resamples=100, seed=0)
    assert [change.p_value for change in found] == [2 / 2**12, 1.0, 2 / 2**4]
    assert [change.p_holm for change in found] == [3 * 2 / 2**12, 1.0, 2 * 2 / 2**4]


@pytest.mark.parametrize("metric", ["accuracy", "bits_per_byte"])
@pytest.mark.parametrize(("passages", "is_few"), [(1, True), (9, True), (10, False)])
def test_compare_of_few_passages_has_no_interval_and_no_p_value(
    tmp_path: Path, metric: str, passages: int, is_few: bool
) -> None:
    wrong, right = ([(f"i{n}", value, 1) for n in range(passages)] for value in (0.0, 1.0))
    base, model = (
        evaluation(tmp_path, name, {"t": rows}, metric=metric) for name, rows in (("b", wrong), ("m", right))
    )
    (change,) = compare(base, model, confidence=0.95, num_resamples=100, seed=0)
    (crossed,) = across_seeds([base], [model, model], confidence=0.95)
    assert change.has_few_passages == crossed.has_few_passages == is_few
    for number in (change.low, change.high, change.p_value, change.p_holm, crossed.low, crossed.high, crossed.p_holm):
        assert math.isnan(number) == is_few
    assert change.delta == crossed.delta == 1


def test_compare_of_equal_answers_still_has_an_interval(tmp_path: Path) -> None:
    rows = [(f"i{n}", float(n % 2), 1) for n in range(100)]
    base, model = (evaluation(tmp_path, name, {"t": rows}) for name in ("b", "m"))
    (change,) = compare(base, model, confidence=0.95, num_resamples=100, seed=0)
    assert change.delta == 0
    assert change.high == -change.low == pytest.approx(0.0362, abs=1e-4)  # Clopper-Pearson: 0 of 100
    assert change.detectable > 0


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ({"template": "{% for message in messages %}"}, "chat_template is"),
        ({"form": "chat"}, "tasks.t.form is .plain. in the first, .chat. in the second"),
        ({"split": "selection"}, "split is .report. in the first, .selection. in the second"),
    ],
)
def test_compare_refuses_different_conditions(tmp_path: Path, other: dict[str, str], problem: str) -> None:
    rows = {"t": [("a", 1, 1), ("b", 0, 1)]}
    base, model = evaluation(tmp_path, "base", rows), evaluation(tmp_path, "model", rows, **other)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=problem):
        compare(base, model, confidence=0.95, num_resamples=100, seed=0)


def test_compare_across_forms_lets_the_form_differ_and_nothing_else(tmp_path: Path) -> None:
    rows = {"t": [("a", 1, 1), ("b", 0, 1)]}
    base = evaluation(tmp_path, "base", rows)
    chat = evaluation(tmp_path, "chat", rows, form="chat", template="{{ messages }}")
    other = evaluation(tmp_path, "other", rows, form="chat", split="all")
    (change,) = compare(base, chat, confidence=0.95, num_resamples=100, seed=0, across_forms=True)
    assert change.delta == 0
    with pytest.raises(DataError, match="split is"):
        compare(base, other, confidence=0.95, num_resamples=100, seed=0, across_forms=True)


@pytest.mark.parametrize(
    ("tasks", "problem"),
    [
        ({"t": [("a", 1, 1), ("c", 0, 1)]}, "the items of task t differ.*1 only in the first, 1 only in the second"),
        ({"t": [("a", 1, 1)]}, "the items of task t differ.*1 only in the first, 0 only in the second, e.g. b"),
        ({"u": [("a", 1, 1), ("b", 0, 1)]}, "the tasks differ"),
        ({"t": [("a", 1, 1), ("b", 0, 2)]}, "item b has a different answer or length"),
    ],
)
def test_compare_refuses_different_items(tmp_path: Path, tasks: dict[str, list[Row]], problem: str) -> None:
    base = evaluation(tmp_path, "base", {"t": [("a", 1, 1), ("b", 0, 1)]})
    with pytest.raises(DataError, match=problem):
        compare(base, evaluation(tmp_path, "model", tasks), confidence=0.95, num_resamples=100, seed=0)


def test_compare_of_right_answers_is_in_bits_a_byte_and_leaves_texts_out(tmp_path: Path) -> None:
    rows = [("a", 1.0, 1), ("b", 0.0, 1), ("c", 1.0, 1)]
    base = evaluation(tmp_path, "base", {"t": rows})
    (change,) = compare(base, base, confidence=0.95, num_resamples=100, seed=0, measure="gold")
    assert (change.metric, change.higher_is_better, change.delta) == ("gold_bits_per_byte", False, 0.0)
    assert change.base == pytest.approx((0 + 1 + 2) / math.log(2) / 6)  # nats 0, 1, 2 over two bytes each
    texts = evaluation(tmp_path, "texts", {"t": rows}, metric="bits_per_byte")
    assert compare(texts, texts, confidence=0.95, num_resamples=100, seed=0, measure="gold") == []


def test_drift_is_the_mean_over_questions_and_empty_if_not_measured(tmp_path: Path) -> None:
    (moved,) = drift(evaluation(tmp_path, "one", {"t": [("a", 1.0, 1), ("b", 0.0, 1), ("c", 1.0, 1)]}))
    assert (moved.task, moved.nats) == ("t", pytest.approx(1 / 3))
    assert moved.stderr == pytest.approx(np.std([0.5, 0, 0.5], ddof=1) / math.sqrt(3))
    assert drift(evaluation(tmp_path, "texts", {"t": [("a", 1.0, 1)]}, metric="bits_per_byte")) == []


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


def test_retention_above_chance_ignores_tasks_without_initial_skill() -> None:
    deltas = [
        delta_of("general", -0.25, base=0.75, chance=0.25),  # half of the skill is gone
        delta_of("general", -0.1, base=0.5),  # a fifth
        delta_of("general", -0.02, base=0.27, chance=0.25),  # was a guess all along
    ]
    assert retention(deltas).general_retained == pytest.approx((0.5 + 0.8) / 2)


def test_retention_of_a_group_without_tasks_is_unknown() -> None:
    summary = retention([delta_of("domain", 0.5)])
    assert summary.domain_mean_delta == 0.5
    assert math.isnan(summary.general_mean_delta)
    assert math.isnan(summary.general_mean_loss)
    assert math.isnan(summary.general_retained)


def delta_of(
    group: str, delta: float, *, metric: str = "accuracy", low: float = 0.0, base: float = 0.5, chance: float = 0.0
) -> TaskDelta:
    return TaskDelta(
        task="t",
        group=group,
        metric=metric,
        higher_is_better=True,
        n=10,
        passages=10,
        chance=chance,
        base=base,
        value=base + delta,
        delta=delta,
        low=low,
        high=delta,
        p_value=0.5,
        p_holm=0.5,
        detectable=0.1,
        gained=0,
        lost=0,
    )
