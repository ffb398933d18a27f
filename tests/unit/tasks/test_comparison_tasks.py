"""What a comparison decides by itself: which trainings there are, which value is taken, how long each may be."""

from types import SimpleNamespace
from typing import Any

import pytest

from mixcpt.config import CompareConfig
from mixcpt.records.comparison import TriedValue
from tasks.comparison import chosen_values, equal_lengths, report_trials, search_trials


def config(**changes: Any) -> CompareConfig:
    contenders = [{"name": "cheap"}, {"name": "dear", "values": [0.01, 0.02]}]
    settings = {"mixture": {"total_tokens": 9000}}
    return CompareConfig.model_validate(
        {"contenders": contenders, "settings": settings, "search": {"values": [0.1, 0.2]}, **changes}
    )


def searched_run(flops_per_token: float) -> Any:
    metrics = {"flops": flops_per_token * 9000, "tokens": 9000}
    return SimpleNamespace(refs={"pretrained": SimpleNamespace(record={"metrics": metrics})})


def test_search_tries_every_value_once_with_the_first_seed_on_the_selection_split() -> None:
    trials = search_trials(config(seeds=[5, 6]))
    assert [(t.contender, t.value, t.seed) for t in trials] == [
        *(("cheap", 0.1, 5), ("cheap", 0.2, 5)),
        *(("dear", 0.01, 5), ("dear", 0.02, 5)),
    ]
    assert {trial.config.evaluate.split for trial in trials} == {"selection"}


def test_search_is_left_out_where_there_is_nothing_to_choose_or_to_measure() -> None:
    single = {"contenders": [{"name": "one"}], "search": {"values": [0.1]}}
    assert search_trials(config(**single)) == []
    assert len(search_trials(config(**single, equal="flops"))) == 1


def test_chosen_value_is_the_best_of_each_contender_and_the_first_of_equals() -> None:
    scores = {("cheap", 0.1): 0.3, ("cheap", 0.2): 0.3, ("dear", 0.01): 0.1, ("dear", 0.02): 0.2}
    tried = [
        TriedValue(contender=name, value=value, domain=0.0, general=0.0, score=score)
        for (name, value), score in scores.items()
    ]
    assert chosen_values(config(), tried) == {"cheap": 0.1, "dear": 0.02}


def test_equal_lengths_give_everybody_the_operations_of_the_cheapest() -> None:
    asked = config(equal="flops")
    trials = search_trials(asked)
    lengths = equal_lengths(asked, trials, [searched_run(cost) for cost in (6.0, 6.0, 8.0, 8.0)])
    assert lengths == {"cheap": 9000, "dear": 6750}
    assert lengths["dear"] * 8 == pytest.approx(lengths["cheap"] * 6)
    reported = report_trials(asked, {"cheap": 0.1, "dear": 0.02}, lengths)
    assert {(t.contender, t.config.mixture.total_tokens) for t in reported} == set(lengths.items())
    assert {trial.config.evaluate.split for trial in reported} == {"report"}


def test_equal_tokens_leave_lengths_as_they_are() -> None:
    assert equal_lengths(config(), search_trials(config()), []) == {}
