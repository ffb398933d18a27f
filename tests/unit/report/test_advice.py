"""Search for a mixture: its space, its points, its recommendation and its page."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mixcpt.config import AdaptConfig, AdviseConfig, load_settings
from mixcpt.errors import ConfigError
from mixcpt.records.comparison import Advice, Attempt, Comparison, ContenderResult, save_advice
from mixcpt.records.run import RunResult
from mixcpt.report.comparison.advice import markdown_advice, recommended, recommended_settings, write_advice
from mixcpt.report.comparison.figures import front
from mixcpt.store.artifacts import ArtifactStore
from tasks.advice import Search
from tests.unit.report_artifacts import hits, run

DOMAIN, GENERAL = "domain_questions", "general_questions_unasked"
SETTINGS = {"mixture": {"weights": {"domain": 2, "instructions": 1.5, "preferences": 0.5}}}


def advise(**changes: Any) -> AdviseConfig:
    return AdviseConfig.model_validate({"settings": SETTINGS, "num_trials": 8, **changes})


def test_point_changes_share_alpha_and_rate_and_leaves_the_other_pools_their_proportion() -> None:
    made = advise().adapt({"domain_share": 0.8, "alpha": 0.3, "learning_rate": 0.0012345}, split="selection")
    weights = made.mixture.weights
    assert (weights.domain, weights.instructions, weights.preferences) == (0.8, 0.15, 0.05)
    assert made.pretrain.method.model_dump()["alpha"] == 0.3
    assert made.pretrain.optimizer.learning_rate == 0.00123  # rounded, so that equivalent points are the same training
    assert made.evaluate.split == "selection"


def test_start_is_the_settings_as_they_are() -> None:
    config = advise()
    assert config.start == {"domain_share": 0.5, "learning_rate": 0.001, "alpha": 0.5}
    plain = AdaptConfig.model_validate(SETTINGS)
    started = config.adapt(config.start, split="all")
    assert started.pretrain == plain.pretrain
    ours, theirs = (list(each.mixture.weights.model_dump().values()) for each in (started, plain))
    assert [value / sum(ours) for value in ours] == [value / sum(theirs) for value in theirs]


def test_alpha_is_searched_where_the_method_has_one() -> None:
    replay = SETTINGS | {"pretrain": {"method": {"kind": "cpt_replay"}}}
    assert set(advise(settings=replay).space) == {"domain_share", "learning_rate"}
    assert set(advise().space) == {"domain_share", "learning_rate", "alpha"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"alpha": {"low": 0.9, "high": 0.1}}, "low .* must be below high"),
        ({"settings": {"mixture": {"weights": {"domain": 1, "instructions": 0, "preferences": 0}}}}, "another pool"),
        ({"domain_share": {"low": 0.5, "high": 1.0}}, "high below 1"),
        ({"settings": {"mixture": {"row_tokens": 1}}}, "settings: mixture.row_tokens"),
    ],
)
def test_searches_that_cannot_be_done_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        advise(**changes)


def test_load_advise_names_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text("num_trials: 1\n")
    with pytest.raises(ConfigError, match=r"search.yaml has 1 problem:\n  num_trials"):
        load_settings(AdviseConfig, path)


class Answers:
    """Replacement of the trainings with the best score at a domain share of 0.6."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shares: list[float] = []
        monkeypatch.setattr("tasks.advice._attempt", self._attempt)

    def _attempt(self, point: dict[str, float], run: Any, domain_weight: float) -> Attempt:
        self.shares.append(point["domain_share"])
        return Attempt(point=dict(point), domain=0.5, general=0.5, score=-((point["domain_share"] - 0.6) ** 2))


def searched(config: AdviseConfig) -> Search:
    search = Search(config, "")
    while drawn := search.draw():
        search.learn([SimpleNamespace() for _ in drawn])  # type: ignore[misc]
    return search


@pytest.mark.parametrize("jobs", [1, 3])
def test_search_begins_with_the_settings_finds_the_best_and_repeats_itself(
    monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    answers = Answers(monkeypatch)
    config = advise(num_trials=12, jobs=jobs)
    search = searched(config)
    assert len(search.attempts) == 12
    assert search.attempts[0].point == config.start
    assert search.best.point["domain_share"] == pytest.approx(0.6, abs=0.05)
    first = list(answers.shares)
    searched(config)
    assert answers.shares[12:] == first
    assert all(0.3 <= share <= 0.9 for share in first)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("store"))


def trained(store: ArtifactStore, name: str, learned: float, kept: float) -> tuple[RunResult, ...]:
    runs = []
    for seed in range(3):
        right = {DOMAIN: hits(40, learned - 0.025 * seed), GENERAL: hits(50, kept)}
        base = {DOMAIN: hits(40, 0.0), GENERAL: hits(50, 1.0)}
        made = run(store, f"{name}-{seed}", base_right=base, final_right=right)
        selection = {f"selection-{role}": made.evaluations[role] for role in ("base", "final")}
        runs.append(replace(made, evaluations=made.evaluations | selection))
    return tuple(runs)


@pytest.fixture(scope="module")
def advice(store: ArtifactStore) -> Advice:
    config = advise()
    points: Sequence[tuple[float, float, float]] = [(0.5, 0.6, 0.9), (0.7, 0.9, 0.8), (0.8, 0.95, 0.5), (0.4, 0.5, 0.7)]
    attempts = tuple(
        Attempt(
            point={"domain_share": share, "learning_rate": 0.002, "alpha": 0.25},
            domain=learned,
            general=kept,
            score=learned + kept,
        )
        for share, learned, kept in points
    )
    results = tuple(
        ContenderResult(name, 0.001, trained(store, name, *shares))
        for name, shares in (("given", (0.6, 0.9)), ("advised", (0.9, 0.9)))
    )
    best = {"domain_share": 0.7, "learning_rate": 0.002, "alpha": 0.25}
    return Advice(config, attempts, Comparison(config.confirmation(best), (), results))


def test_advice_recommends_settings_with_their_gain_on_other_questions(advice: Advice) -> None:
    text = recommended(advice)
    assert text.startswith("The best of 4 trainings on the selection questions has share of the domain 0.7, learning ")
    assert text.endswith(". Recommended: it is better in domain questions.")
    assert (
        "On the report questions, over 3\u00a0seeds, it differs from the given settings by: domain questions +30"
        in text
    )
    changed = yaml.safe_load(recommended_settings(advice))
    assert changed["mixture"]["weights"]["domain"] == 0.7
    assert changed["pretrain"] == {"optimizer": {"learning_rate": 0.002}, "method": {"kind": "lssd", "alpha": 0.25}}
    assert "```yaml\nmixture:" in markdown_advice(advice)


def test_advice_page_shows_search_picture_and_confirmation(advice: Advice, tmp_path: Path) -> None:
    page = write_advice(advice, tmp_path / "advice.html").read_text()
    assert page.count("<svg") == 1 and "<script" not in page
    for text in (
        "Recommended settings",
        "advised minus given",
        "share of the domain",
        "Confirmation on other questions",
    ):
        assert text in page
    assert "mathdefault" not in page  # the axis of learning rates shows numbers, not TeX


def test_front_holds_what_no_other_training_beats(advice: Advice) -> None:
    assert [one.point["domain_share"] for one in front(advice.attempts, 1, 1)] == [0.5, 0.7, 0.8]
    assert [one.point["domain_share"] for one in front(advice.attempts, -1, 1)] == [0.5, 0.4]


def test_advice_is_recorded_and_read_again(advice: Advice, store: ArtifactStore) -> None:
    import json

    ref = save_advice(store, advice)
    assert Advice.from_json(json.loads(ref.file("advice.json").read_text())).to_json() == advice.to_json()
    assert advice.best.point["domain_share"] == 0.7


def test_advice_without_a_shown_difference_keeps_the_given_settings(advice: Advice, tmp_path: Path) -> None:
    given = advice.confirmation.results[0]
    same = replace(advice.confirmation, results=(given, replace(given, contender="advised")))
    tied = replace(advice, confirmation=same)
    assert "No difference from the given settings was shown: in domain questions and general" in recommended(tied)
    assert recommended(tied).endswith("keep the given settings.")
    page = write_advice(tied, tmp_path / "advice.html").read_text()
    assert "Settings of the best training, not recommended" in page and "Recommended" not in page
