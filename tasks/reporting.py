"""Publishes a finished run: its record and page, a table in Prefect, and figures in MLflow."""

import importlib
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from mixcpt.records.run import RunResult, TrackingRef, save_run
from mixcpt.report.summary import RunSummary, Summary, summarise
from mixcpt.report.table import markdown_table
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from tasks.adaptation import Adaptation
from tasks.registry import describe_version
from tasks.rows import METRICS_TABLE, compare_path, description, end_tags, record_rows
from tasks.stage_runs import log_data_of_run, prefect_address
from tasks.tracking import NOTE, Tracking, forgiving


def prepare_report() -> None:
    """Import the libraries of the report, which takes seconds, in a thread while other processes compute the stages."""
    names = ("mixcpt.report.page", "mixcpt.report.cards")
    threading.Thread(target=lambda: [importlib.import_module(name) for name in names], daemon=True).start()


@task(name="publish")
def publish(adaptation: Adaptation, result: RunResult) -> ArtifactRef:
    """Publish the record of a run, a table in Prefect and a page in MLflow, and return the reference of the record."""
    ref = save_run(adaptation.store, result)
    summary = summarise([result])
    compare = publish_rows(adaptation, result, summary) or ""
    text = f"# {result.name}\n\n{markdown_table(summary)}\n{_links(result.tracking, compare)}"
    create_markdown_artifact(text, key="results", description=f"{result.name}: base against the adapted model")
    create_table_artifact(result_rows(summary), key="results-table", description=f"{result.name}, stage by stage")
    if link := run_link(result.tracking):
        create_link_artifact(link, link_text=f"MLflow run {result.name}", key="mlflow-run")
    if compare and (link := _address(result.tracking, compare)):
        create_link_artifact(link, link_text="MLflow: base and adapted models", key="mlflow-comparison")
    finish_parent(adaptation.tracking, adaptation.run_id, result, summary=summary, text=text, store=adaptation.store)
    return ref


def publish_rows(adaptation: Adaptation, result: RunResult, summary: Summary) -> str | None:
    """Log the rows of the base and the adapted models in MLflow, and return the relative address of their comparison.

    The result is empty if the adaptation has no run in MLflow, and None if MLflow is unreachable.
    """
    tracking, run_id = adaptation.tracking, adaptation.run_id
    return _log_rows(tracking, run_id, result, summary, flow_run_id=adaptation.flow_run_id) if run_id else ""


@forgiving
def _log_rows(tracking: Tracking, run_id: str, result: RunResult, summary: Summary, *, flow_run_id: str) -> str:
    compare = compare_path(tracking, record_rows(tracking, run_id, result, summary))
    note = description(end_tags(result, summary), compare, prefect_address(flow_run_id))
    tracking.tag(run_id, {NOTE: note})
    tracking.log_table_once(run_id, figures(summary.runs[0]), METRICS_TABLE)
    return compare


@task(name="compare")
def publish_runs_table(results: Sequence[RunResult]) -> Summary:
    """Publish the summary of several runs as text and as a table in Prefect, and return it."""
    summary = summarise(results)
    create_markdown_artifact(markdown_table(summary), key="comparison", description="base against every run")
    create_table_artifact(run_rows(summary), key="comparison-table", description="base against every run")
    return summary


@task(name="page")
def publish_page(results: Sequence[RunResult]) -> Path:
    """Write one page about several runs into their store, publish its path in Prefect, and return it."""
    from mixcpt.report.page import write_report

    store = ArtifactStore(results[0].config.runtime.store)
    page = write_report(results, store, store.root / f"{results[-1].name}.html")
    create_markdown_artifact(f"Page of all runs:\n\n    {page}", key="page", description=results[-1].name)
    return page


def result_rows(summary: Summary) -> list[dict[str, Any]]:
    """Return one row per task: base, pre-trained and final model of a run, and the final change with its interval."""
    (run,) = summary.runs
    rows = []
    for name, base in summary.base.tasks.items():
        row: dict[str, Any] = {"task": name, "metric": base.metric, "base": _round(base.value)}
        pretrained = {"pretrained": _round(run.pretrained.tasks[name].value)} if run.pretrained else {}
        rows.append(row | pretrained | _final(run, name))
    return rows


def run_rows(summary: Summary) -> list[dict[str, Any]]:
    """Return one row per task: the base, and per run the final model with its change and interval."""
    rows = []
    for name, base in summary.base.tasks.items():
        row: dict[str, Any] = {"task": name, "metric": base.metric, "base": _round(base.value)}
        for run in summary.runs:
            row |= {f"{run.name} {column}": value for column, value in _final(run, name).items()}
        rows.append(row)
    return rows


@forgiving
def finish_parent(
    tracking: Tracking, run_id: str, result: RunResult, *, summary: Summary, text: str, store: ArtifactStore
) -> None:
    """Complete the MLflow run of an adaptation: figures, data, page, model card and status."""
    from mixcpt.evaluate.statistics.ledger import ledger
    from mixcpt.report.cards import model_card
    from mixcpt.report.page import write_report

    if not run_id:
        return
    training = [result.refs[role] for role in ("corpus", "mixture", "selection") if role in result.refs]
    log_data_of_run(tracking, run_id, training, evaluations=[result.evaluations["final"]])
    with TemporaryDirectory() as folder:
        page = write_report([result], store, Path(folder) / "report.html", summary)
        tracking.client.log_artifact(run_id, str(page))
        facts = ledger(result.evaluations["base"], result.evaluations["final"], result.refs["corpus"])
        if len(facts):
            facts.to_parquet(Path(folder) / "facts.parquet", index=False)
            tracking.client.log_artifact(run_id, str(Path(folder) / "facts.parquet"))
            tracking.client.log_table(run_id, facts.drop(columns="documents"), "facts.json")
    card = model_card(result, store, summary=summary)
    tracking.client.log_text(run_id, card, "model-card.md")
    describe_version(tracking, result.config.runtime.registered_model, result.tracking.model_version, card)
    tracking.client.log_text(run_id, text, "results.md")
    tracking.client.log_dict(run_id, {"results": result_rows(summary), **result.to_json()}, "run.json")
    tracking.close(run_id, "FINISHED")


def figures(run: RunSummary) -> dict[str, float]:
    """Return all numbers of an adaptation: values, changes with intervals, retention, planned and measured costs."""
    metrics: dict[str, float] = {}
    for name, value in run.final.tasks.items():
        metrics[f"eval/{name}/{value.metric}"] = value.value
        if value.change:
            ends = {"delta": value.change.delta, "low": value.change.low, "high": value.change.high}
            metrics |= {f"retention/{name}/{end}": number for end, number in ends.items()}
    if run.final.retention:
        metrics |= {f"retention/{name}": number for name, number in vars(run.final.retention).items()}
    metrics |= {f"eval/{name}/{change.metric}": change.value for name, change in run.final.gold.items()}
    metrics |= {f"retention/{name}/kl_to_base": drift.nats for name, drift in run.final.drift.items()}
    metrics |= {f"eval/{prior.task}/open-book": prior.open_book for prior in run.prior_knowledge}
    for stage in run.planned:
        stage_name = stage.stage.replace(" ", "-")
        for name, (planned, measured) in stage.pairs.items():
            metrics |= {f"plan/{stage_name}/{name}": planned, f"measured/{stage_name}/{name}": measured}
    return {name: number for name, number in metrics.items() if not math.isnan(number)}


def run_link(tracking: TrackingRef) -> str:
    """Return the address of the page of a run on the MLflow server; empty for a local database."""
    page = f"#/experiments/{tracking.experiment_id}/runs/{tracking.run_id}?workflowType=machine_learning"
    return _address(tracking, page) if tracking.run_id else ""


def _address(tracking: TrackingRef, path: str) -> str:
    """Return the address of a page of the MLflow server; empty for a local database."""
    return f"{tracking.uri}/{path}" if tracking.uri.startswith("http") else ""


def _links(tracking: TrackingRef, compare: str) -> str:
    if link := run_link(tracking):
        comparison = f", [compared with the base]({_address(tracking, compare)})" if compare else ""
        return f"[MLflow run]({link}){comparison}\n"
    command = f"mlflow ui --backend-store-uri {tracking.uri}"
    return f"MLflow run `{tracking.run_id}`, shown by `{command}`.\n" if tracking.run_id else ""


def _final(run: RunSummary, task_name: str) -> dict[str, float | None]:
    value = run.final.tasks[task_name]
    row = {"final": _round(value.value)}
    if change := value.change:
        row |= {"change": _round(change.delta), "low": _round(change.low), "high": _round(change.high)}
    return row


def _round(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
