"""Runs a flow in this process, with the Prefect server that is configured or a temporary one that ends with us."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefect.exceptions import TerminationSignal
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console

from mixcpt.artifacts import ArtifactStore
from mixcpt.config import RuntimeConfig
from mixcpt.errors import MixcptError
from mixcpt.runs import RunResult
from mixcpt.stack import running_api, temporary_prefect_server
from tasks.tracking import Place, prepare_in_background


def run_locally(run: Callable[[], None], runtime: RuntimeConfig) -> int:
    """Returns the exit code of `run`: 0, 2 after a deliberate error, 130 and 143 after Ctrl-C and SIGTERM."""
    try:
        with _prefect_api(runtime):
            run()
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
    written = page.write_report(results, store, store.root / "report.html")
    console.print(f"report: {written}", markup=False, highlight=False, soft_wrap=True)
    if started is not None:
        print(summary.result_line(found, time.time() - started), flush=True)


@contextmanager
def _prefect_api(runtime: RuntimeConfig) -> Iterator[None]:
    """Makes a Prefect server reachable: the one that is configured, that of `mixcpt up`, or a temporary one."""
    store = Path(runtime.store).expanduser().resolve()
    preparing = prepare_in_background(Place.of(runtime))  # beside the start of the server: both take seconds
    with ExitStack() as server:
        url = PREFECT_API_URL.value() or running_api(store) or server.enter_context(temporary_prefect_server(store))
        preparing.join()
        with temporary_settings({PREFECT_API_URL: url}):
            try:
                yield
            finally:
                APILogHandler().flush()  # while the server is still there: without it, every line is tried in vain
