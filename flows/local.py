"""Runs a flow in this process, with the Prefect server that is configured or a temporary one that ends with us.

A run that the store has already is shown without any server.
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
    """Shows what `run` returns, or what the store has of it already; see `show` for `started`.

    Returns the exit code: 0, 2 after a deliberate error, 130 and 143 after Ctrl-C and SIGTERM.
    """

    def work() -> None:
        results: Sequence[RunResult] = _stored_results(configs)
        if results:
            print("every stage is in the store already; nothing was computed", file=sys.stderr)
        else:
            with _prefect_api(configs[0].runtime):
                results = run()
        show(results, started)

    return _explained(work)


def with_prefect(runtime: RuntimeConfig, work: Callable[[], None]) -> int:
    """Returns the exit code of `work`, done while a Prefect server can be reached; the codes are those above."""

    def served() -> None:
        with _prefect_api(runtime):
            work()

    return _explained(served)


def _explained(work: Callable[[], None]) -> int:
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
    """Prints the table of results and where their page lies; with `started`, a last line for programs."""
    from mixcpt.report import page, summary, table

    store = ArtifactStore(results[0].config.runtime.store)
    found = summary.summarise(results)
    console = Console()
    console.print(table.result_table(found))
    written = page.write_report(results, store, store.root / "report.html", found)
    console.print(f"report: {written}", markup=False, highlight=False, soft_wrap=True)
    if started is not None:
        print(summary.result_line(found, time.time() - started), flush=True)


def _stored_results(configs: Sequence[AdaptConfig]) -> list[RunResult]:
    """Returns the results of all runs, or none of them if one is not whole in the store: then a server is needed."""
    results = []
    for config in configs:
        if not ArtifactStore(config.runtime.store).list("run"):
            return []
        if not (found := find_stored_run(open_adaptation(config))):
            return []
        results.append(found)
    return results


@contextmanager
def _prefect_api(runtime: RuntimeConfig) -> Iterator[None]:
    """Makes a Prefect server reachable: the one that is configured, that of `mixcpt up`, or a temporary one."""
    store = Path(runtime.store).expanduser().resolve()
    preparing = prepare_in_background(Place.of(runtime))  # beside the start of the server: both take seconds
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
                APILogHandler().flush()  # while the server is still there: without it, every line is tried in vain
