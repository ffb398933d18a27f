"""A running stack as people use it: commands, rounds that they or an event start, answers to a paused run."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterStartTime,
)
from prefect.client.schemas.objects import FlowRun, StateType

from benchmarks import flow_runs
from mixcpt.servers.stack import Stack, free_port, running_stack

ROOT = Path(__file__).resolve().parents[1]
_POLL_SECONDS = 1.0


@dataclass
class Site:
    """A running stack, and its store."""

    stack: Stack
    prefect: SyncPrefectClient
    store: Path

    def mixcpt(self, *arguments: str) -> str:
        """Returns what a command prints; it finds the stack by the store.

        Raises:
            RuntimeError: If it fails.
        """
        command = [sys.executable, "-m", "mixcpt", *arguments, "--store", str(self.store)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"mixcpt {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def start(self) -> UUID:
        """Returns the id of a round that somebody starts by hand."""
        return flow_runs.start(self.prefect, "readapt/readapt")

    def started_since(self, moment: datetime) -> UUID:
        """Returns the id of the round that an event has started, once it runs."""
        by_event = DeploymentFilter(name=DeploymentFilterName(any_=["readapt-on-corpus"]))
        later = FlowRunFilter(start_time=FlowRunFilterStartTime(after_=moment))
        while not (found := self.prefect.read_flow_runs(deployment_filter=by_event, flow_run_filter=later)):
            time.sleep(_POLL_SECONDS)
        return found[0].id

    def wait(self, run: UUID, wanted: StateType = StateType.COMPLETED) -> FlowRun:
        """Returns a flow run that has reached a type of state.

        Raises:
            RuntimeError: If it has ended without.
        """
        found = flow_runs.wait(self.prefect, run, [wanted])
        if found.state_type != wanted:
            raise RuntimeError(f"{found.name} became {found.state}")
        return found

    def answer(self, run: UUID, **given: Any) -> str:
        """Returns what became of an answer to a paused run: ACCEPT or REJECT."""
        return self.prefect.resume_flow_run(run, given).status.value


@contextmanager
def running_site(store: Path) -> Iterator[Site]:
    servers = running_stack(store, ROOT, free_port(), free_port(), presets=False)
    with servers as (stack, _), SyncPrefectClient(stack.api) as prefect:
        yield Site(stack, prefect, store)
