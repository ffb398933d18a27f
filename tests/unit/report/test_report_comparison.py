"""Numbers, texts and page of a comparison."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from mixcpt.config import AdaptConfig, CompareConfig
from mixcpt.config.compare import merged
from mixcpt.records.comparison import Comparison, ContenderResult, TriedValue, load_comparison, save_comparison
from mixcpt.records.run import RunResult
from mixcpt.report.comparison.page import comparison_rows, markdown_comparison, write_comparison
from mixcpt.report.comparison.summary import summarise_comparison
from mixcpt.report.comparison.verdict import recommendation
from mixcpt.store.artifacts import ArtifactStore
from tests.unit.report_artifacts import hits, run

DOMAIN, GENERAL = "domain_questions", "general_questions_unasked"
BASE = {DOMAIN: hits(40, 0.0), GENERAL: hits(50, 1.0)}
SHARES = {"plain": (0.9, 0.5), "middling": (0.5, 0.8), "mixcpt": (0.9, 0.9), "timid": (0.1, 1.0)}
"""Learned and kept accuracy by contender."""


CLAIMS = [
    {"statement": "keeps more", "contender": "mixcpt", "against": "plain", "task": GENERAL, "by": 0.05},
    {"statement": "learns more", "contender": "middling", "against": "plain", "task": DOMAIN},
    {"statement": "learns as much", "contender": "mixcpt", "against": "plain", "task": DOMAIN},
    {"statement": "loses at most two points", "contender": "timid", "task": GENERAL, "by": -0.1},
]


def answers(learned: float, kept: float, seed: int) -> dict[str, list[int]]:
    return {DOMAIN: hits(40, learned - 0.025 * seed), GENERAL: hits(50, kept - 0.02 * seed)}


def chosen_on(store: ArtifactStore, name: str, **rights: Mapping[str, Sequence[int]]) -> RunResult:
    """Return a run whose results on the selection split equal those on the report split."""
    made = run(store, name, **rights)
    selection = {f"selection-{role}": made.evaluations[role] for role in ("base", "final")}
    return replace(made, evaluations=made.evaluations | selection)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def comparison(store: ArtifactStore) -> Comparison:
    results = []
    for name, (learned, kept) in SHARES.items():
        runs = tuple(
            chosen_on(store, f"{name}-{seed}", base_right=BASE, final_right=answers(learned, kept, seed))
            for seed in range(3)
        )
        results.append(ContenderResult(name, 0.001, runs))
    contenders = [{"name": name} for name in SHARES]
    config = CompareConfig.model_validate({"name": "four", "contenders": contenders, "claims": CLAIMS})
    tried = tuple(
        TriedValue(contender=name, value=value, domain=0.5, general=0.9, score=0.4 + 0.1 * (name == "mixcpt") + value)
        for name, value in product(SHARES, (0.001, 0.01))
    )
    return Comparison(config, tried, tuple(results))


def test_comparison_uses_every_seed_and_finds_the_front(comparison: Comparison) -> None:
    summary = summarise_comparison(comparison)
    rows = {row.contender: row for row in summary.rows}
    assert [name for name, row in rows.items() if row.is_on_front] == ["mixcpt", "timid"]
    change = rows["plain"].changes[DOMAIN]
    assert len(change.values) == 3
    assert change.value == pytest.approx(sum(change.values) / 3)
    assert change.low < change.delta < change.high
    assert not rows["plain"].against_first
    assert rows["mixcpt"].against_first[GENERAL].low > 0.2
    assert rows["plain"].cost.tokens == 1_300_000 + 40_000 + 20_000
    assert rows["mixcpt"].kept == pytest.approx(-0.12, abs=0.01)


def test_comparison_recommends_by_other_questions_with_intervals(comparison: Comparison) -> None:
    text = recommendation(summarise_comparison(comparison))
    assert text.startswith(
        "Recommended, by the questions that choose, which are not reported here: mixcpt (score 0.378"
    )
    assert "± 0.023; next plain, " in text
    assert (
        "On the reported questions, over 3\u00a0seeds, mixcpt gained in the domain (domain questions 0.0\u00a0% → 8"
        in text
    )
    assert "mixcpt is better than middling and timid in domain questions; better than plain" in text
    assert "worse than timid in general questions unasked" in text


def test_comparison_chooses_by_all_seeds_and_not_by_the_search(comparison: Comparison) -> None:
    misled = tuple(replace(tried, score=tried.score + (tried.contender == "plain")) for tried in comparison.tried)
    summary = summarise_comparison(replace(comparison, tried=misled))
    assert [result.contender for result in summary.choice][:2] == ["mixcpt", "plain"]
    one_seed = tuple(replace(result, runs=result.runs[:1]) for result in comparison.results)
    assert all(
        math.isnan(result.spread) for result in summarise_comparison(replace(comparison, results=one_seed)).choice
    )


def test_comparison_claim_holds_if_the_whole_interval_agrees(comparison: Comparison) -> None:
    summary = summarise_comparison(comparison)
    assert [result.verdict for result in summary.claims] == ["holds", "does not hold", "not shown", "holds"]
    assert all(result.p_holm >= result.change.p_value for result in summary.claims)
    lines = markdown_comparison(summary).splitlines()
    assert any(line.startswith("| keeps more | holds | +40.0") for line in lines)


def test_comparison_claim_with_an_unknown_contender_or_task_is_refused() -> None:
    for claim, problem in (
        ({"statement": "x", "contender": "nobody", "task": DOMAIN}, "nobody is none of the contenders: plain"),
        ({"statement": "x", "contender": "plain", "task": "nothing"}, "nothing is none of the tasks: domain_questions"),
    ):
        with pytest.raises(ValueError, match=problem):
            CompareConfig.model_validate({"contenders": [{"name": "plain"}], "claims": [claim]})


def test_comparison_checks_a_promise_for_every_contender(comparison: Comparison) -> None:
    promise = {"pretrain": {"retention": {"max_loss": 0.1}}, "evaluate": {"split": "report"}}
    promised = []
    for result in comparison.results:
        changes = promise if result.contender == "mixcpt" else {}
        runs = tuple(replace(run, config=_changed(run.config, changes)) for run in result.runs)
        promised.append(replace(result, runs=runs))
    summary = summarise_comparison(replace(comparison, results=tuple(promised)))
    results = {result.contender: (result.is_own, result.num_kept, result.worst) for result in summary.promises}
    assert results["mixcpt"] == (True, 1, pytest.approx(-0.14))
    assert results["plain"] == (False, 0, pytest.approx(-0.54))
    assert results["timid"] == (False, 3, pytest.approx(-0.04))
    assert "| mixcpt | general questions unasked | −10.0 | 1 of 3 | −14.0 |" in markdown_comparison(summary)
    assert "| plain (promised nothing) |" in markdown_comparison(summary)


def _changed(config: AdaptConfig, changes: dict[str, Any]) -> AdaptConfig:
    return AdaptConfig.model_validate(merged(config.model_dump(mode="json"), changes))


def test_comparison_tables_have_one_row_per_contender(comparison: Comparison) -> None:
    summary = summarise_comparison(comparison)
    assert [row["contender"] for row in comparison_rows(summary)] == list(SHARES)
    lines = markdown_comparison(summary).splitlines()
    assert sum(line.startswith("| ") for line in lines) == 2 + len(SHARES) + len(CLAIMS)  # two headings
    assert any(line.startswith("| mixcpt (front) | 0.001 |") for line in lines)


def test_comparison_page_shows_everything_without_network_or_script(comparison: Comparison, tmp_path: Path) -> None:
    page = write_comparison(summarise_comparison(comparison), tmp_path / "page.html").read_text()
    assert "<script" not in page and "http://" not in page.replace("http://www.w3.org", "")
    for text in (
        "Difference from plain",
        "Search",
        "detectable",
        "spread",
        "Claims",
        "Choice",
        *SHARES,
    ):
        assert text in page
    assert page.count("<svg") == 1


def test_comparison_is_found_again_and_an_unknown_one_lists_the_known(
    comparison: Comparison, store: ArtifactStore
) -> None:
    saved = save_comparison(store, comparison)
    assert load_comparison(saved).to_json() == comparison.to_json()
