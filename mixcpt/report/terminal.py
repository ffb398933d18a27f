"""Results of runs on the terminal."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mixcpt.records.run import RunResult
from mixcpt.report import page, summary, table
from mixcpt.store.artifacts import ArtifactStore


def print_results(results: Sequence[RunResult], started: float | None = None) -> None:
    """Print the table of results and the path of their page, which is written if it shows other runs.

    Args:
        results: Finished runs with the same base model.
        started: Unix time at which the command started; if given, a last line for programs is printed.
    """
    store = ArtifactStore(results[0].config.runtime.store)
    run_summary = summary.summarise(results)
    console = Console()
    console.print(table.result_table(run_summary))
    report = _current_report(results, store, run_summary)
    console.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
    if started is not None:
        print(summary.result_line(run_summary, time.time() - started), flush=True)


def _current_report(results: Sequence[RunResult], store: ArtifactStore, run_summary: summary.Summary) -> Path:
    path = store.root / "report.html"
    if page.shows(path, results):
        return path
    return page.write_report(results, store, path, run_summary)
