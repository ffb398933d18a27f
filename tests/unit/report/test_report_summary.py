"""Numbers of the report against numbers computed directly from the answers."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import pytest

from mixcpt.errors import ArtifactError, ConfigError, DataError
from mixcpt.records.run import RunResult, TrackingRef
from mixcpt.report.figures.bars import value_interval
from mixcpt.report.sections.answers import choose
from mixcpt.report.sections.provenance import differences, stage_costs, total, tracked
from mixcpt.report.summary import Summary, TaskValue, result_line, summarise
from mixcpt.report.verdict import Direction, direction, pair_verdict, run_verdict
from mixcpt.report.view import located, sample_rows
from mixcpt.store.artifacts import ArtifactStore
from tests.unit.report_artifacts import hits, run

DOMAIN, GENERAL = "domain_questions", "general_questions_unasked"
BASE_RIGHT = {DOMAIN: hits(40, 0.0), GENERAL: hits(50, 0.9)}
TRADITIONAL_RIGHT = {DOMAIN: hits(40, 0.1), GENERAL: hits(50, 0.3)}
MIXCPT_RIGHT = {DOMAIN: hits(40, 0.9, offset=3), GENERAL: hits(50, 0.8, offset=5)}
BITS = [130.0 + index for index in range(12)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def runs(store: ArtifactStore) -> list[RunResult]:
    return [
        run(store, "traditional", base_right=BASE_RIGHT, final_right=TRADITIONAL_RIGHT, final_bits=BITS),
        run(
            store,
            "mixcpt",
            base_right=BASE_RIGHT,
            final_right=MIXCPT_RIGHT,
            pretrained_right=TRADITIONAL_RIGHT,
            final_bits=BITS,
            method="kl",
        ),
    ]


@pytest.fixture(scope="module")
def summary(runs: list[RunResult]) -> Summary:
    return summarise(runs)


def share(right: Sequence[int]) -> float:
    return sum(right) / len(right)


def paired_interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Return the normal approximation of the interval of a paired difference, which is close to the bootstrap's."""
    changes = [new - old for old, new in zip(before, after, strict=True)]
    mean = sum(changes) / len(changes)
    error = math.sqrt(sum((change - mean) ** 2 for change in changes)) / len(changes)
    z = NormalDist().inv_cdf(0.975)
    return mean - z * error, mean + z * error


def test_summary_values_are_those_of_the_answers(summary: Summary) -> None:
    for task in (DOMAIN, GENERAL):
        assert summary.base.tasks[task].value == pytest.approx(share(BASE_RIGHT[task]))
        for model, right in ((summary.runs[0], TRADITIONAL_RIGHT), (summary.runs[1], MIXCPT_RIGHT)):
            change = model.final.tasks[task].change
            assert change is not None
            assert model.final.tasks[task].value == pytest.approx(share(right[task]))
            assert change.delta == pytest.approx(share(right[task]) - share(BASE_RIGHT[task]))
            flips = list(zip(BASE_RIGHT[task], right[task], strict=True))
            assert (change.gained, change.lost) == (flips.count((0, 1)), flips.count((1, 0)))


def test_summary_interval_is_that_of_the_paired_difference(summary: Summary) -> None:
    change = summary.runs[1].final.tasks[GENERAL].change
    low, high = paired_interval(BASE_RIGHT[GENERAL], MIXCPT_RIGHT[GENERAL])
    assert change is not None
    assert (change.low, change.high) == pytest.approx((low, high), abs=0.04)


def test_summary_bits_per_byte_are_weighted_and_fall(summary: Summary) -> None:
    value = summary.runs[0].final.tasks["domain_bits"]
    assert value.value == pytest.approx(sum(BITS) / (100 * len(BITS)))
    assert value.change is not None and value.change.base == pytest.approx(2.0)
    assert direction(value.change) is Direction.BETTER


def test_summary_retention_is_the_mean_over_accuracy_tasks(summary: Summary) -> None:
    loss = share(BASE_RIGHT[GENERAL]) - share(TRADITIONAL_RIGHT[GENERAL])
    retention = summary.runs[0].final.retention
    assert retention is not None
    assert retention.domain_mean_delta == pytest.approx(share(TRADITIONAL_RIGHT[DOMAIN]))
    assert retention.general_mean_delta == pytest.approx(-loss)
    assert retention.general_mean_loss == pytest.approx(loss)


def test_summary_pretrained_model_stands_apart_only_where_it_was_evaluated(summary: Summary) -> None:
    assert summary.runs[0].pretrained is None
    pretrained = summary.runs[1].pretrained
    assert pretrained is not None
    assert (pretrained.form, summary.runs[1].final.form) == ("plain", "chat")
    assert pretrained.tasks[DOMAIN].value == pytest.approx(share(TRADITIONAL_RIGHT[DOMAIN]))


def test_pair_comparison_pairs_the_final_models_by_item(summary: Summary) -> None:
    (comparison,) = summary.pairs
    assert (comparison.first, comparison.second) == ("traditional", "mixcpt")
    for change in comparison.changes:
        expected = share(MIXCPT_RIGHT[change.task]) - share(TRADITIONAL_RIGHT[change.task])
        assert change.delta == pytest.approx(expected)
    text = pair_verdict(comparison, 0.95).replace("\u00a0", " ")
    assert text.startswith("mixcpt is better than traditional in domain questions (+80.0 points, 95 % interval ")


def test_verdict_names_gain_and_loss_with_their_intervals(summary: Summary) -> None:
    text = run_verdict(summary, summary.runs[0]).replace("\u00a0", " ")
    assert "gained in the domain (domain questions 0.0 % → 10.0 %: +10.0 points, 95 % interval +" in text
    assert "but lost in general (general questions unasked 90.0 % → 30.0 %: −60.0 points, 95 % interval −" in text


def test_verdict_of_no_difference_claims_none(tmp_path: Path) -> None:
    same = run(ArtifactStore(tmp_path), "same", base_right=BASE_RIGHT, final_right=BASE_RIGHT)
    summary = summarise([same])
    text = run_verdict(summary, summary.runs[0]).replace("\u00a0", " ")
    assert text.startswith("same shows no significant gain in the domain (domain questions 0.0 % → 0.0 %")


def test_cost_is_the_sum_over_stages_and_the_highest_peak(runs: list[RunResult]) -> None:
    stages = stage_costs(runs[0])
    assert [cost.stage for cost in stages[:6]] == ["corpus", "mixture", "pretrained", "selection", "sft", "dpo"]
    cost = total(stages)
    assert cost.tokens == 1_300_000 + 40_000 + 20_000
    assert cost.flops == pytest.approx(8.0 * 2e6 * cost.tokens)
    assert cost.peak_memory_bytes == 1_450_000_000
    trained = ("pretrained", "sft", "dpo")
    rest = [ref for role, ref in {**runs[0].refs, **runs[0].evaluations}.items() if role not in trained]
    assert cost.seconds == pytest.approx(3 * 118.2 + sum(ref.record["seconds"] for ref in rest)), "all attempts count"


def test_result_line_is_one_json_object_with_exactly_the_promised_keys(summary: Summary) -> None:
    word, text = result_line(summary, 412.345).split(" ", 1)
    result = json.loads(text)
    assert word == "RESULT"
    assert list(result) == ["base", "traditional", "mixcpt", "seconds"]
    assert result["base"] == {"domain": 0.0, "general": 0.9}
    assert result["mixcpt"] == {"domain": 0.9, "general": 0.8}
    assert result["seconds"] == 412.3


@pytest.mark.parametrize("name", ["base", "seconds"])
def test_summary_of_a_run_with_a_reserved_name_is_refused(runs: list[RunResult], name: str) -> None:
    renamed = replace(runs[0], config=runs[0].config.model_copy(update={"name": name}))
    with pytest.raises(ConfigError, match=name):
        summarise([renamed])


def test_summary_of_the_same_name_twice_is_refused(runs: list[RunResult]) -> None:
    with pytest.raises(ConfigError, match="traditional"):
        summarise([runs[0], runs[0]])


def test_summary_of_runs_that_were_measured_differently_is_refused(runs: list[RunResult], tmp_path: Path) -> None:
    other_base = {**BASE_RIGHT, GENERAL: hits(50, 0.5)}
    other = run(ArtifactStore(tmp_path), "other", base_right=other_base, final_right=MIXCPT_RIGHT, final_bits=BITS)
    with pytest.raises(DataError, match=r"traditional and other .* results of the base"):
        summarise([runs[0], other])


def test_run_of_a_moved_store_is_found_there(tmp_path: Path) -> None:
    made = run(ArtifactStore(tmp_path / "old"), "moved", base_right=BASE_RIGHT, final_right=MIXCPT_RIGHT)
    shutil.move(tmp_path / "old", tmp_path / "new")
    moved = located(made, ArtifactStore(tmp_path / "new"))
    assert summarise([moved]).runs[0].final.tasks[DOMAIN].value == pytest.approx(0.9)
    shutil.rmtree(tmp_path / "new" / "mixture")
    with pytest.raises(ArtifactError, match="mixture"):
        located(made, ArtifactStore(tmp_path / "new"))


def test_sampled_rows_are_the_first_of_each_group(runs: list[RunResult]) -> None:
    groups = sample_rows(runs[0].refs["corpus"].file("removed.parquet"), lambda row: row["step"], per_group=3)
    assert {step: [row["id"] for row in rows] for step, rows in groups.items()} == {
        "deduplicate": ["d0", "d1", "d2"],
        "minimum_length": ["s1"],
    }


def items(values: Mapping[str, int]) -> dict[tuple[str, str], dict[str, float]]:
    return {("task", name): {"value": float(value)} for name, value in values.items()}


def test_examples_begin_with_flips_of_both_kinds_in_turn() -> None:
    base = items({f"i{index}": index % 2 for index in range(40)})
    final = items({f"i{index}": (index % 2) ^ (index < 8) for index in range(40)})
    chosen = [int(item[1:]) for _, item in choose(base, [final], 10, seed=0)]
    assert all(index < 8 for index in chosen[:8]) and len(set(chosen)) == 10
    assert [index % 2 for index in chosen[:8]] == [0, 1] * 4, "gained, lost, gained, lost ..."
    assert choose(base, [final], 10, seed=0) == choose(base, [final], 10, seed=0)
    assert choose(base, [final], 10, seed=0) != choose(base, [final], 10, seed=1)


@pytest.mark.parametrize(
    ("value", "n", "low", "high"), [(0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0), (0.5, 100, 0.4038, 0.5962)]
)
def test_value_interval_of_accuracy_is_wilsons(value: float, n: int, low: float, high: float) -> None:
    measured = TaskValue(
        task="t", group="domain", metric="accuracy", higher_is_better=True, n=n, value=value, stderr=0.0
    )
    assert value_interval(measured, 0.95) == pytest.approx((low, high), abs=1e-4)


def test_value_interval_without_standard_error_has_no_width() -> None:
    measured = TaskValue(
        task="t", group="domain", metric="bits_per_byte", higher_is_better=False, n=1, value=1.5, stderr=None
    )
    assert value_interval(measured, 0.95) == (1.5, 1.5)


def test_differences_name_the_settings_in_which_runs_differ(runs: list[RunResult]) -> None:
    settings = differences(runs)
    assert settings["pretrain.method.kind"] == ["lssd", "kl"]
    assert settings["pretrain.method.kl_weight"] == ["", 0.1]
    assert "name" not in settings and "seed" not in settings


def test_tracked_place_keeps_no_credentials(runs: list[RunResult]) -> None:
    secret = TrackingRef("https://user:password@mlflow.example:5000", "1", "abc", "2")
    made = replace(runs[0], tracking=secret)
    assert tracked(made)["tracking server"] == "https://mlflow.example:5000"
