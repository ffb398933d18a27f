"""A sweep scores every interpolation like a separate evaluation, follows its selection rule, and repeats nothing."""

import io
import json
import re
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console

from mixcpt.config import BitsPerByteTask, EvaluateConfig, MultipleChoiceTask, SweepConfig
from mixcpt.evaluate import evaluate
from mixcpt.evaluate.summary import TaskScore
from mixcpt.merge.sweep import SweepPoint, SweepReport, sweep
from mixcpt.report.sweep import sweep_choice, sweep_table
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import NullTracker
from tests.unit.merge_models import moved_model

NOTHING = ArtifactRef("model", "", "", "")


def task_score(name: str, metric: str, value: float) -> TaskScore:
    return TaskScore(
        task=name,
        group=name,
        metric=metric,
        higher_is_better=metric == "accuracy",
        n=100,
        value=value,
        stderr=0.01,
    )


def point(weight: float, domain: float, general: float, *, bits: bool = False) -> SweepPoint:
    metric = "bits_per_byte" if bits else "accuracy"
    scores = {
        "domain": task_score("domain", metric, domain),
        "general": task_score("general", "accuracy", general),
    }
    worst = {name: replace(score, value=0.0) for name, score in scores.items()}  # reported, and chooses nothing
    return SweepPoint(weight, NOTHING, scores, worst)


def selected(points: list[SweepPoint], max_domain_loss: float) -> float:
    return SweepReport(tuple(points), "domain", "general", max_domain_loss).selected.weight


def test_selection_keeps_most_general_ability_close_to_the_best_domain_score() -> None:
    points = [point(0.0, 0.02, 1.0), point(0.5, 0.85, 0.9), point(0.75, 0.9, 0.8), point(1.0, 0.92, 0.6)]
    assert selected(points, 0.0) == 1
    assert selected(points, 0.02) == 0.75  # exactly at the edge, where 0.92 - 0.02 is not 0.9 in floating point
    assert selected(points, 0.07) == 0.5
    assert selected(points, 1.0) == 0


def test_selection_among_equals_takes_the_better_domain_score_then_the_one_nearest_the_base() -> None:
    points = [point(0.0, 0.0, 0.5), point(0.25, 0.88, 0.8), point(0.5, 0.9, 0.8), point(0.75, 0.9, 0.8)]
    assert selected(points, 0.05) == 0.5


def test_selection_without_general_task_takes_the_smallest_weight_close_to_the_best_domain_score() -> None:
    points = (point(0.0, 0.02, 1.0), point(0.5, 0.9, 0.9), point(0.75, 0.92, 0.8), point(1.0, 0.91, 0.6))
    assert SweepReport(points, "domain", "", 0.02).selected.weight == 0.5
    assert SweepReport(points, "domain", "", 0.0).selected.weight == 0.75


def test_sweep_without_general_task_says_first_that_forgetting_was_not_measured() -> None:
    report = SweepReport((point(0.0, 0.1, 1.0), point(1.0, 0.9, 1.0)), "domain", "", 0.02)
    assert printed(report).startswith("Forgetting was not measured: no task is general.")
    line = sweep_choice(report)[0]
    assert line.startswith("* weight 1: the smallest weight whose domain is within 2.0 points of the best")
    with_general = SweepReport(report.points, "domain", "general", 0.02)
    assert "not measured" not in printed(with_general) + " ".join(sweep_choice(with_general))


def test_sweep_shows_few_passages_and_scores_at_chance() -> None:
    few = {"domain": replace(task_score("domain", "accuracy", 0.6), n=40, passages=4)}
    guess = {"general": replace(task_score("general", "accuracy", 0.3), chance=0.25)}
    report = SweepReport(tuple(SweepPoint(weight, NOTHING, few | guess, few | guess) for weight in (0.0, 1.0)),
                         "domain", "general", 0.02)  # fmt: skip
    text = printed(report)
    assert "4 passages" in text and "±" not in text
    assert "chance 25.0 %" in text and "30.0 % at chance" in text
    doubts = [line.replace("\xa0", " ") for line in sweep_choice(report)[2:-1]]
    assert doubts == [
        "domain has 4 passages on the selection questions, too few to tell weights apart.",
        "general is at chance (25.0 %) at every weight: this choice is a guess.",
    ]


def printed(report: SweepReport) -> str:
    """Return the table of a sweep as one line of words."""
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(sweep_table(report))
    cells = [re.split("[│┃]", line) for line in console.export_text().replace("\xa0", " ").splitlines()]
    columns = zip_longest(*cells, fillvalue="")
    return " ".join(" ".join(" ".join(column) for column in columns).split())


def test_selection_prefers_fewer_bits() -> None:
    points = [point(0.0, 2.0, 0.9, bits=True), point(0.5, 1.1, 0.8, bits=True), point(1.0, 1.0, 0.5, bits=True)]
    assert selected(points, 0.05) == 1
    assert selected(points, 0.1) == 0.5


@pytest.mark.parametrize("weights", [(), (0.5, 0.5), (1.0, 0.0), (0.0, 1.5)])
def test_sweep_settings_require_rising_weights_between_0_and_1(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        SweepConfig(weights=weights)


def test_sweep_scores_equal_separate_evaluations(tiny_model: ModelRef, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    tuned = moved_model(tiny_model, tmp_path / "tuned", 1)
    tasks = questions(tmp_path)
    corpus = store.produce(StageKey("corpus", 1, {}), lambda folder: {})

    def run() -> SweepReport:
        config = SweepConfig(weights=(0.0, 0.5, 1.0))
        tracker = NullTracker()
        return sweep(config, tiny_model, tuned, corpus, tasks, form="plain", seed=0, store=store, tracker=tracker)

    report = run()
    assert [each.weight for each in report.points] == [0.0, 0.5, 1.0]
    assert [each.model.record["settings"]["config"]["weight"] for each in report.points] == [0.0, 0.5, 1.0]
    for each, model in ((report.points[0], tiny_model), (report.points[2], tuned)):
        for split, scores in (("selection", each.selection_scores), ("report", each.scores)):
            asked = tasks.model_copy(update={"split": split})
            alone = evaluate(asked, model, corpus, form="plain", seed=0, store=store, tracker=NullTracker())
            summary = json.loads(alone.file("summary.json").read_text())["tasks"]
            assert {name: score.value for name, score in scores.items()} == {s["task"]: s["value"] for s in summary}
            assert scores["keyed"].stderr == summary[1]["stderr"]
        assert 0 < each.selection_scores["keyed"].n < each.scores["keyed"].n
    bits = [each.scores["texts"].value for each in report.points]
    assert len(set(bits)) == 3
    assert report.selected in report.points
    assert report.general_task == "keyed"
    again = run()
    assert again == report
    assert all(each.model.reused for each in again.points)


def questions(folder: Path) -> EvaluateConfig:
    names = ("Alda", "Boren", "Cira", "Dovan", "Elin", "Faro") * 6
    texts = [
        {"id": f"t{n}", "text": f"{name} likes the blue owl . the fox keeps iron ."} for n, name in enumerate(names)
    ]
    (folder / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    rows = [
        {"id": f"i{n}", "question": f"what is {name} ?", "choices": ["fox", "owl", "gold"], "answer": n % 3}
        for n, name in enumerate(names)
    ]
    (folder / "keyed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return EvaluateConfig(
        tasks=(
            BitsPerByteTask(name="texts", group="domain", path=str(folder / "texts.jsonl")),
            MultipleChoiceTask(name="keyed", group="general", path=str(folder / "keyed.jsonl")),
        ),
        headline_domain="texts",
        headline_general="keyed",
    )
