"""Runs a flow in this process, with the configured Prefect server or a temporary one that ends with the process."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefect.exceptions import TerminationSignal
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from mixcpt.config import RuntimeConfig
from mixcpt.errors import MixcptError
from mixcpt.records.run import RunResult
from mixcpt.servers.stack import HEARTBEAT_SECONDS, running_api, temporary_prefect_server
from tasks.terminal import Terminal, on_terminal
from tasks.tracking import TEMPORARY_SERVER, Place, prepare_in_background


def run_locally(run: Callable[[], Sequence[RunResult]], runtime: RuntimeConfig, started: float | None = None) -> int:
    """Run adaptations, print their results as `print_results` does, and return the exit code.

    `started` is the Unix time at which a command for several runs started; None for a single run.
    """

    def work() -> None:
        with _prefect_api(runtime, with_runs=started is not None):
            results = run()
        from mixcpt.report.page import print_results

        print_results(results, started)

    return _exit_code(work)


def with_prefect(runtime: RuntimeConfig, work: Callable[[], None]) -> int:
    """Do some work while a Prefect server can be reached, and return the exit code."""

    def work_with_server() -> None:
        with _prefect_api(runtime, with_runs=True):
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
        print("stopped; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    except TerminationSignal:
        return 143
    return 0


def print_champion(version: str, runtime: RuntimeConfig) -> None:
    """Print which version of the registered model is the champion."""
    print(f"champion of {runtime.registered_model}: version {version}")


@contextmanager
def _prefect_api(runtime: RuntimeConfig, *, with_runs: bool) -> Iterator[None]:
    """Connect to the configured Prefect server, to the server of `mixcpt up`, or to a temporary one."""
    terminal = Terminal(with_runs=with_runs)
    store = Path(runtime.store).expanduser().resolve()
    preparing = prepare_in_background(Place.of(runtime))  # while the server starts: both take seconds
    with ExitStack() as server:
        url = PREFECT_API_URL.value() or running_api(store)
        if not url:
            url = server.enter_context(temporary_prefect_server(store))
            os.environ[TEMPORARY_SERVER] = "1"
        else:
            terminal.line(f"progress is also shown by Prefect at {url.removesuffix('/api')}")
        preparing.join()
        with temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: HEARTBEAT_SECONDS}):
            try:
                with on_terminal(terminal):
                    yield
            finally:
                APILogHandler().flush()  # while the server runs; later, every line would be a failed request
