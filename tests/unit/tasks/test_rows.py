"""Rows of MLflow's table of runs: the metrics of the base and the adapted models, readable tags and descriptions."""

from dataclasses import replace

import pytest

from mixcpt.config import FilesSource
from mixcpt.records.run import RunResult
from mixcpt.report.summary import Summary, summarise
from mixcpt.store.artifacts import ArtifactStore
from tasks.rows import (
    description,
    domain_documents,
    end_tags,
    row_figures,
)
from tests.unit.report_artifacts import hits, run

BASE_RIGHT = {"domain_questions": hits(40, 0.2), "general_questions_unasked": hits(50, 0.8)}
FINAL_RIGHT = {"domain_questions": hits(40, 0.7), "general_questions_unasked": hits(50, 0.6)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def result(store: ArtifactStore) -> RunResult:
    return adapted(store, "mine")


def adapted(store: ArtifactStore, name: str, method: str = "lssd") -> RunResult:
    return run(
        store, name, method=method, base_right=BASE_RIGHT, pretrained_right=FINAL_RIGHT, final_right=FINAL_RIGHT,
        final_bits=[1.0] * 3,
    )  # fmt: skip


def figures_of(summary: Summary, role: str) -> dict[str, tuple[float, float]]:
    (one,) = summary.runs
    model = one.final if role == "final" else one.pretrained
    assert model is not None
    return {figure.name: (figure.base, figure.value) for figure in row_figures(summary, one, model)}


def test_row_has_headlines_changes_tasks_and_costs_of_both_models(result: RunResult) -> None:
    summary = summarise([result])
    figures = figures_of(summary, "final")
    assert figures["domain"] == pytest.approx((0.2, 0.7))
    assert figures["general"] == pytest.approx((0.8, 0.6))
    assert figures["eval/domain_bits/bits_per_byte"] == pytest.approx((2.0, 0.01))
    assert figures["domain_change"] == pytest.approx((0.0, 0.5))
    low, high = figures["domain_change_low"][1], figures["domain_change_high"][1]
    assert 0 < low < 0.5 < high
    assert figures["general_retained"] == pytest.approx((1.0, 0.75))
    assert figures["drift"][0] == 0.0 < figures["drift"][1]
    assert figures["training/tokens"] == (0.0, 1_360_000)
    assert figures["training/peak_memory_gib"] == pytest.approx((0.0, 1_450_000_000 / 2**30))
    assert len(figures) <= 25


def test_row_before_alignment_costs_less_than_the_final_one(result: RunResult) -> None:
    summary = summarise([result])
    early, final = figures_of(summary, "pretrained"), figures_of(summary, "final")
    assert set(early) == set(final)
    assert early["training/tokens"] == (0.0, 1_300_000)
    assert early["seconds"][1] < final["seconds"][1]


def test_row_is_limited_if_there_are_many_tasks(result: RunResult) -> None:
    summary = summarise([result])
    (one,) = summary.runs
    tasks = {f"task{number}": one.final.tasks["domain_bits"] for number in range(50)}
    base = replace(summary.base, tasks={**summary.base.tasks, **tasks})
    model = replace(one.final, tasks={**tasks, **one.final.tasks})
    names = [figure.name for figure in row_figures(replace(summary, base=base), one, model)]
    assert {"eval/domain_questions/accuracy", "eval/general_questions_unasked/accuracy"} <= set(names)
    assert len(names) <= 27


def test_row_without_a_general_task_has_no_general_metric(result: RunResult) -> None:
    summary = replace(summarise([result]), headline_general="")
    assert not [name for name in figures_of(summary, "final") if name.startswith("general_change") or name == "general"]


def test_tags_are_readable(result: RunResult) -> None:
    tags = end_tags(result, summarise([result]))
    assert tags["model"] == "tiny-base"
    assert tags["method"] == "lssd"
    assert tags["domain documents"] == "1,840 of the closed world, 97 more held out"
    assert tags["domain task"] == "domain_questions (accuracy)"
    assert tags["verdict"].startswith("mine ")


@pytest.mark.parametrize(
    ("path", "place"),
    [("docs", "docs/"), ("../data/docs/", "docs/"), ("/a/b/book.txt", "book.txt"), ("data/*.md", "data/*.md")],
)
def test_domain_documents_name_the_place_without_its_folders(result: RunResult, path: str, place: str) -> None:
    sources = (FilesSource(name="documents", pool="domain", paths=(path,)),)
    curation = result.config.curation.model_copy(update={"sources": sources})
    config = result.config.model_copy(update={"curation": curation})
    assert domain_documents(config, result.refs["corpus"]) == f"1,840 of {place}, 97 more held out"


@pytest.mark.parametrize(
    "text", ["[x](javascript:alert(1))", "<img src=x onerror=1>", "a | b\n# title", "*bold* `code`"]
)
def test_description_shows_user_text_literally(text: str) -> None:
    shown = description({"model": text, "verdict": text}, "#/compare", "")
    for sign in ("<img", "[x](", "\n# title", "*bold*", "`code`"):
        assert sign not in shown.replace("\\", "\\ ")
    assert "Prefect" not in shown


def test_description_links_the_flow_run_and_the_comparison() -> None:
    shown = description({"verdict": "good"}, "#/compare-runs?x", "http://127.0.0.1:4200/runs/flow-run/1")
    assert "(#/compare-runs?x)" in shown
    assert "[Prefect flow run](http://127.0.0.1:4200/runs/flow-run/1)" in shown
