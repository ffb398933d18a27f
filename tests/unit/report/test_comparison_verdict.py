"""Ties, chance, few passages and unmeasured forgetting in a comparison: words, tables, page and choice of a value."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixcpt.config import AdaptConfig, CompareConfig
from mixcpt.config.compare import merged
from mixcpt.records.comparison import Comparison, ContenderResult, TriedValue, load_comparison, save_comparison
from mixcpt.records.run import RunResult
from mixcpt.report.comparison.page import column_groups, comparison_rows, markdown_comparison, write_comparison
from mixcpt.report.comparison.summary import ComparisonSummary, summarise_comparison
from mixcpt.report.comparison.verdict import lead, recommendation
from mixcpt.report.verdict import NOT_MEASURED
from mixcpt.store.artifacts import ArtifactStore
from tasks.comparison import selection_scores
from tests.unit.report_artifacts import hits, run

DOMAIN, GENERAL = "domain_questions", "general_questions_unasked"
SEEDS = (0, 1)
Shares = Mapping[str, float]
"""Right answers of one model by task, as a share."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("store"))


def compared(
    store: ArtifactStore,
    contenders: Mapping[str, Shares],
    *,
    base: Shares,
    num_questions: int = 60,
    chance: float = 0.0,
    tokens: Mapping[str, int] | None = None,
    selection: Mapping[str, Shares] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Comparison:
    """Return a comparison of contenders with these shares of right answers, which a seed shifts to other questions.

    Args:
        store: Store of the artifacts.
        contenders: Shares on the report split by contender.
        base: Shares of the base.
        num_questions: Questions per task, each with its own passage.
        chance: Accuracy of guessing.
        tokens: Training tokens by contender, if they differ.
        selection: Shares on the selection split by contender, if they differ from those on the report split.
        settings: Changes to the settings of all runs.
    """
    results = []
    for name, shares in contenders.items():
        runs = []
        for seed in SEEDS:
            options = {"chance": chance, "num_tokens": (tokens or {}).get(name, 1_300_000)}
            made = evaluated(store, f"{name}-{seed}", base, shares, seed, num_questions, options)
            chosen = made
            if selection:
                chosen = evaluated(store, f"{name}-{seed}", base, selection[name], seed, num_questions, options)
            roles = {f"selection-{role}": chosen.evaluations[role] for role in ("base", "final")}
            config = merged(made.config.model_dump(mode="json"), settings or {})
            made = replace(made, config=AdaptConfig.model_validate(config), evaluations=made.evaluations | roles)
            runs.append(made)
        results.append(ContenderResult(name, 0.001, tuple(runs)))
    listed = [{"name": name} for name in contenders]
    config = CompareConfig.model_validate({"name": "tested", "contenders": listed, "seeds": SEEDS})
    return Comparison(config, (), tuple(results))


def evaluated(
    store: ArtifactStore,
    name: str,
    base: Shares,
    shares: Shares,
    seed: int,
    num_questions: int,
    options: Mapping[str, Any],
) -> RunResult:
    before = {task: hits(num_questions, share) for task, share in base.items()}
    after = {task: hits(num_questions, share, offset=seed) for task, share in shares.items()}
    return run(store, name, base_right=before, final_right=after, **options)


def shares(learned: float, kept: float) -> dict[str, float]:
    return {DOMAIN: learned, GENERAL: kept}


UNTRAINED = shares(0.0, 1.0)


def written(summary: ComparisonSummary, folder: Path) -> str:
    return write_comparison(summary, folder / "page.html").read_text()


@pytest.fixture(scope="module")
def tie(store: ArtifactStore) -> ComparisonSummary:
    contenders = {"costly": shares(0.5, 0.9), "cheap": shares(0.48, 0.9)}
    return summarise_comparison(
        compared(store, contenders, base=UNTRAINED, tokens={"costly": 2_600_000, "cheap": 1_300_000})
    )


def test_tie_is_called_no_difference_and_names_the_cheapest_for_its_cost(tie: ComparisonSummary) -> None:
    first, cost, *_ = lead(tie)
    assert tie.choice[0].contender == "costly"  # the best score by a hair
    assert first.startswith("No difference was shown between costly and cheap: in ")
    assert "the intervals of the differences include zero" in first
    assert cost.startswith("cheap is the cheapest of them (")
    assert cost.endswith("take cheap for the cost, not for a better result.")


def test_tie_is_never_recommended_in_any_form(tie: ComparisonSummary, tmp_path: Path) -> None:
    for text in (recommendation(tie), markdown_comparison(tie), written(tie, tmp_path)):
        assert "ecommended" not in text
        assert "No difference was shown between costly and cheap" in text


def test_tie_at_equal_cost_names_no_winner(store: ArtifactStore) -> None:
    made = compared(store, {"one": shares(0.5, 0.9), "other": shares(0.5, 0.9)}, base=UNTRAINED)
    text = recommendation(summarise_comparison(made))
    assert "They cost about the same (" in text and "so take any of them" in text
    assert "ecommended" not in text


def test_tie_of_the_best_ones_still_says_which_others_are_worse(store: ArtifactStore) -> None:
    contenders = {"one": shares(0.9, 0.9), "other": shares(0.88, 0.9), "weak": shares(0.2, 0.9)}
    text = recommendation(summarise_comparison(compared(store, contenders, base=UNTRAINED)))
    assert text.startswith("No difference was shown between one and other: ")
    assert "one is better than weak in domain questions." in text


def test_clear_difference_is_recommended(store: ArtifactStore) -> None:
    contenders = {"weak": shares(0.2, 0.9), "strong": shares(0.9, 0.9)}
    text = recommendation(summarise_comparison(compared(store, contenders, base=UNTRAINED)))
    assert text.startswith("Recommended, by the questions that choose, which are not reported here: strong (score ")
    assert "strong is better than weak in domain questions." in text


def test_best_score_that_the_reported_questions_contradict_is_not_recommended(store: ArtifactStore) -> None:
    reported = {"lucky": shares(0.3, 0.9), "steady": shares(0.9, 0.9)}
    chosen = {"lucky": shares(0.9, 0.9), "steady": shares(0.3, 0.9)}
    text = recommendation(summarise_comparison(compared(store, reported, base=UNTRAINED, selection=chosen)))
    assert text.startswith("No contender is recommended: lucky has the best score")
    assert "on the reported questions steady is better" in text


def test_best_contender_that_learned_nothing_is_not_recommended(store: ArtifactStore) -> None:
    contenders = {"timid": shares(0.3, 1.0), "wild": shares(0.3, 0.4)}
    text = recommendation(summarise_comparison(compared(store, contenders, base=shares(0.3, 1.0))))
    assert text.startswith("No contender is recommended: timid has the best score")
    assert "no gain in the domain was shown for it" in text
    assert "timid is better than wild in general questions unasked." in text


def test_one_contender_is_neither_recommended_nor_tied(store: ArtifactStore, tmp_path: Path) -> None:
    summary = summarise_comparison(compared(store, {"single": shares(0.5, 0.9)}, base=UNTRAINED))
    assert recommendation(summary).startswith(
        "On the reported questions, over 2\u00a0seeds, single gained in the domain"
    )
    assert "Difference from" not in written(summary, tmp_path)


@pytest.fixture(scope="module", params=["settings", "tasks"])
def unmeasured(request: pytest.FixtureRequest, store: ArtifactStore) -> Comparison:
    """Return a comparison without a general task: named as empty, or named but of the domain as in old settings."""
    contenders = {"weak": {DOMAIN: 0.2}, "strong": {DOMAIN: 0.9}}
    named = "" if request.param == "settings" else DOMAIN
    return compared(store, contenders, base={DOMAIN: 0.0}, settings={"evaluate": {"headline_general": named}})


def test_unmeasured_forgetting_is_the_first_sentence(unmeasured: Comparison, tmp_path: Path) -> None:
    summary = summarise_comparison(unmeasured)
    assert summary.headline_general == ""
    assert lead(summary)[0] == NOT_MEASURED
    assert markdown_comparison(summary).startswith(NOT_MEASURED)
    page = written(summary, tmp_path)
    assert re.search(r'<p class="lead">(.*?)</p>', page)[1] == NOT_MEASURED  # type: ignore[index]
    assert "learned and kept" not in page
    assert "Forgetting was not measured." in page  # in the text of the figure
    assert [list(row) for row in comparison_rows(summary)] == [
        ["contender", "learning_rate", *(f"{DOMAIN} {name}" for name in ("value", "change", "low", "high")),
         "on the front", "tokens", "flops", "seconds"]
    ] * 2  # fmt: skip


def test_unmeasured_forgetting_leaves_the_choice_to_the_domain(unmeasured: Comparison) -> None:
    summary = summarise_comparison(unmeasured)
    assert [choice.contender for choice in summary.choice] == ["strong", "weak"]
    assert summary.choice[0].score == pytest.approx(0.9)
    assert [row.contender for row in summary.rows if row.is_on_front] == ["strong"]
    assert all(row.kept is None for row in summary.rows)
    (scores,) = [selection_scores(unmeasured.results[1].runs[0], 0.5)]
    assert scores == {"domain": pytest.approx(0.9), "general": None, "score": pytest.approx(0.9)}


def test_unmeasured_forgetting_is_recorded_with_its_search_and_shown(
    unmeasured: Comparison, store: ArtifactStore, tmp_path: Path
) -> None:
    tried = tuple(TriedValue(contender="weak", value=rate, domain=0.2, general=None, score=0.2) for rate in (0.1, 0.2))
    searched = replace(unmeasured, tried=tried)
    assert load_comparison(save_comparison(store, searched)).tried == tried
    assert "One training per value" in written(summarise_comparison(searched), tmp_path)


@pytest.fixture(scope="module")
def few(store: ArtifactStore) -> ComparisonSummary:
    contenders = {"weak": shares(0.2, 0.9), "strong": shares(1.0, 0.9)}
    return summarise_comparison(compared(store, contenders, base=UNTRAINED, num_questions=7))


def test_few_passages_have_no_interval_and_no_winner(few: ComparisonSummary, tmp_path: Path) -> None:
    assert lead(few)[0].startswith("No difference was shown between weak and strong: in domain questions and general")
    for text in (recommendation(few), markdown_comparison(few), written(few, tmp_path)):
        assert "too few for an interval" in text
        for claim in ("gained", "ecommended", "nan", "[–"):
            assert claim not in text.replace("gained and", "")
    assert "weak has too few domain passages to show a gain" in recommendation(few)


def test_few_passages_give_plain_data_without_nan(few: ComparisonSummary) -> None:
    rows = comparison_rows(few)
    assert rows[0][f"{DOMAIN} low"] is None
    json.dumps(rows, allow_nan=False)


@pytest.fixture(scope="module")
def guessing(store: ArtifactStore) -> ComparisonSummary:
    contenders = {"one": shares(0.3, 0.25), "other": shares(0.22, 0.25)}
    made = compared(store, contenders, base=shares(0.25, 0.25), chance=0.25)
    claim = {"statement": "keeps all", "contender": "one", "task": GENERAL, "by": -0.5}
    config = CompareConfig.model_validate(made.config.model_dump(mode="json") | {"claims": [claim]})
    return summarise_comparison(replace(made, config=config))


def test_scores_at_chance_show_no_difference_and_no_gain(guessing: ComparisonSummary) -> None:
    text = recommendation(guessing)
    assert text.startswith("No difference was shown between one and other: ")
    assert "the scores are at chance" in text
    assert "stays at chance in the domain" in text
    assert "ecommended" not in text and "gained" not in text


def test_chance_is_in_every_table(guessing: ComparisonSummary, tmp_path: Path) -> None:
    page, text = written(guessing, tmp_path), markdown_comparison(guessing)
    assert page.count("chance&nbsp;25.0\u00a0%") == 2  # one per task in the table of results
    assert "chance 25.0\u00a0%" in page  # in the table of all differences
    assert "| chance |  | 25.0 % | 25.0 % |" in text
    assert "(at chance)" in text and "At chance: neither side differs from guessing." in text
    assert comparison_rows(guessing)[0][f"{DOMAIN} chance"] == 0.25


def test_claim_about_scores_at_chance_is_not_shown(guessing: ComparisonSummary) -> None:
    assert [result.verdict for result in guessing.claims] == ["not shown"]


def test_page_has_contenders_as_columns_in_tables_that_fit(unmeasured: Comparison, tmp_path: Path) -> None:
    names = [f"contender-with-a-rather-long-name-{number}" for number in range(11)]
    summary = summarise_comparison(unmeasured)
    first, second = summary.rows
    rows = [replace(second if place else first, contender=name) for place, name in enumerate(names)]
    choice = [replace(summary.choice[0], contender=names[0])]
    page = written(replace(summary, rows=rows, choice=choice), tmp_path)
    results = re.findall(r'aria-label="Results of .*?</table>', page, flags=re.DOTALL)
    assert [table.count('<th scope="col" class="number">') for table in results] == [1 + 3, 1 + 4, 1 + 4]
    for table in results:
        for title in ("learning rate", "tokens trained on", "compute", "device time", "peak memory"):
            assert f'<th scope="row">{title}</th>' in table
    assert [names.index(name) for name in re.findall(r'data-label="(contender\S+)"', page)][:3] == [0, 1, 2]


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (5, [5]), (6, [3, 3]), (11, [3, 4, 4])])
def test_column_groups_are_even(guessing: ComparisonSummary, count: int, sizes: Sequence[int]) -> None:
    rows = [guessing.rows[0]] * count
    assert [len(group) for group in column_groups(rows)] == list(sizes)
