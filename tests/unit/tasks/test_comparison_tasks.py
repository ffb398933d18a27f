"""Decisions of a comparison: its trainings, the chosen values, and the lengths of the trainings."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mixcpt.config import CompareConfig
from mixcpt.records.comparison import TriedValue
from mixcpt.store.artifacts import ArtifactStore
from tasks.comparison import chosen_values, equal_lengths, report_trials, search_trials
from tests.unit.report_artifacts import publish


def config(**changes: Any) -> CompareConfig:
    contenders = [{"name": "cheap"}, {"name": "dear", "values": [0.01, 0.02]}]
    settings = {"mixture": {"total_tokens": 9000}}
    return CompareConfig.model_validate(
        {"contenders": contenders, "settings": settings, "search": {"values": [0.1, 0.2]}, **changes}
    )


def searched_run(folder: Path, flops_per_token: float) -> Any:
    metrics = {"flops": flops_per_token * 9000, "tokens": 9000}
    pretrained = publish(ArtifactStore(folder), "model", {"x.json": flops_per_token}, metrics=metrics)
    return SimpleNamespace(refs={"pretrained": pretrained})


def test_search_tries_every_value_once_with_the_first_seed_on_the_selection_split() -> None:
    trials = search_trials(config(seeds=[5, 6]))
    assert [(t.contender, t.value, t.seed) for t in trials] == [
        *(("cheap", 0.1, 5), ("cheap", 0.2, 5)),
        *(("dear", 0.01, 5), ("dear", 0.02, 5)),
    ]
    assert {trial.config.evaluate.split for trial in trials} == {"selection"}


def test_search_is_empty_if_nothing_is_to_be_chosen_or_measured() -> None:
    single = {"contenders": [{"name": "one"}], "search": {"values": [0.1]}}
    assert search_trials(config(**single)) == []
    assert len(search_trials(config(**single, equal="flops"))) == 1


def test_chosen_value_is_the_best_per_contender_and_the_first_of_equal_ones() -> None:
    scores = {("cheap", 0.1): 0.3, ("cheap", 0.2): 0.3, ("dear", 0.01): 0.1, ("dear", 0.02): 0.2}
    tried = [
        TriedValue(contender=name, value=value, domain=0.0, general=0.0, score=score)
        for (name, value), score in scores.items()
    ]
    assert chosen_values(config(), tried) == {"cheap": 0.1, "dear": 0.02}


def test_equal_lengths_give_all_contenders_the_operations_of_the_cheapest(tmp_path: Path) -> None:
    settings = config(equal="flops")
    trials = search_trials(settings)
    lengths = equal_lengths(settings, trials, [searched_run(tmp_path, flops) for flops in (6.0, 6.0, 8.0, 8.0)])
    assert lengths == {"cheap": 9000, "dear": 6750}
    assert lengths["dear"] * 8 == pytest.approx(lengths["cheap"] * 6)
    reported = report_trials(settings, {"cheap": 0.1, "dear": 0.02}, lengths)
    assert {(t.contender, t.config.mixture.total_tokens) for t in reported} == set(lengths.items())
    assert {trial.config.evaluate.split for trial in reported} == {"report"}


def test_equal_tokens_do_not_change_lengths() -> None:
    assert equal_lengths(config(), search_trials(config()), []) == {}
