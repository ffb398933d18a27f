"""Runs a flow in this process, with the configured Prefect server or a temporary one that ends with the process.

A run whose stages are all in the store is shown without a server.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefect.exceptions import TerminationSignal
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from rich.console import Console

from mixcpt.config import AdaptConfig, RuntimeConfig
from mixcpt.errors import MixcptError
from mixcpt.records.run import RunResult
from mixcpt.servers.stack import HEARTBEAT_SECONDS, running_api, temporary_prefect_server
from mixcpt.store.artifacts import ArtifactStore
from tasks.adaptation import open_adaptation
from tasks.results import find_stored_run
from tasks.tracking import TEMPORARY_SERVER, Place, prepare_in_background


def run_locally(
    run: Callable[[], Sequence[RunResult]], configs: Sequence[AdaptConfig], started: float | None = None
) -> int:
    """Show the stored results of some runs, or run them, and return the exit code; `started` as in `show`."""

    def work() -> None:
        results: Sequence[RunResult] = _stored_results(configs)
        if results:
            print("every stage is already in the store; nothing was computed", file=sys.stderr)
        else:
            with _prefect_api(configs[0].runtime):
                results = run()
        show(results, started)

    return _exit_code(work)


def with_prefect(runtime: RuntimeConfig, work: Callable[[], None]) -> int:
    """Do some work while a Prefect server can be reached, and return the exit code."""

    def work_with_server() -> None:
        with _prefect_api(runtime):
            work()

    return _exit_code(work_with_server)


def _exit_code(work: Callable[[], None]) -> int:
    """Do some work, print a deliberate error, and return the exit code."""
    try:
        work()
    except MixcptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except TerminationSignal:
        return 143
    return 0


def show(results: Sequence[RunResult], started: float | None = None) -> None:
    """Print the table of results and the path of their page; given the start time, also a last line for programs."""
    from mixcpt.report import page, summary, table

    store = ArtifactStore(results[0].config.runtime.store)
    run_summary = summary.summarise(results)
    console = Console()
    console.print(table.result_table(run_summary))
    report = page.write_report(results, store, store.root / "report.html", run_summary)
    console.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
    if started is not None:
        print(summary.result_line(run_summary, time.time() - started), flush=True)


def print_champion(version: str, runtime: RuntimeConfig) -> None:
    """Print which version of the registered model is the champion."""
    print(f"champion of {runtime.registered_model}: version {version}")


def _stored_results(configs: Sequence[AdaptConfig]) -> list[RunResult]:
    """Return the results of all runs, or nothing if a stage of any run is not in the store."""
    results = []
    for config in configs:
        if not (ArtifactStore(config.runtime.store).root / "run").is_dir():
            return []
        result = find_stored_run(open_adaptation(config))
        if result is None:
            return []
        results.append(result)
    return results


@contextmanager
def _prefect_api(runtime: RuntimeConfig) -> Iterator[None]:
    """Connect to the configured Prefect server, to that of `mixcpt up`, or to a temporary one."""
    store = Path(runtime.store).expanduser().resolve()
    preparing = prepare_in_background(Place.of(runtime))  # while the server starts: both take seconds
    with ExitStack() as server:
        url = PREFECT_API_URL.value() or running_api(store)
        if not url:
            url = server.enter_context(temporary_prefect_server(store))
            os.environ[TEMPORARY_SERVER] = "1"
        preparing.join()
        with temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: HEARTBEAT_SECONDS}):
            try:
                yield
            finally:
                APILogHandler().flush()  # before the server ends; later, every line would be a failed request
