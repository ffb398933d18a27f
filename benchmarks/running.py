"""Running servers and the actions of a user: commands, rounds started by hand or event, answers to a paused run."""

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
    """Running servers and their store."""

    stack: Stack
    prefect: SyncPrefectClient
    store: Path

    def mixcpt(self, *arguments: str) -> str:
        """Run a command and return its output; the command finds the servers through the store.

        Raises:
            RuntimeError: If the command fails.
        """
        command = [sys.executable, "-m", "mixcpt", *arguments, "--store", str(self.store)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"mixcpt {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def start(self) -> UUID:
        """Start a round by hand and return the id of its run."""
        return flow_runs.start(self.prefect, "readapt/readapt")

    def started_since(self, moment: datetime) -> UUID:
        """Wait for the round that an event starts after `moment`, and return the id of its run."""
        by_event = DeploymentFilter(name=DeploymentFilterName(any_=["readapt-on-corpus"]))
        later = FlowRunFilter(start_time=FlowRunFilterStartTime(after_=moment))
        while not (runs := self.prefect.read_flow_runs(deployment_filter=by_event, flow_run_filter=later)):
            time.sleep(_POLL_SECONDS)
        return runs[0].id

    def wait(self, run: UUID, wanted: StateType = StateType.COMPLETED) -> FlowRun:
        """Wait until a flow run reaches the wanted state, and return it.

        Raises:
            RuntimeError: If it ends in another state.
        """
        flow_run = flow_runs.wait(self.prefect, run, [wanted])
        if flow_run.state_type != wanted:
            raise RuntimeError(f"{flow_run.name} became {flow_run.state}")
        return flow_run

    def answer(self, run: UUID, **fields: Any) -> str:
        """Answer a paused run, and return whether Prefect accepts the answer: ACCEPT or REJECT."""
        return self.prefect.resume_flow_run(run, fields).status.value


@contextmanager
def running_site(store: Path) -> Iterator[Site]:
    """Yield running servers for a store; stop them on exit."""
    servers = running_stack(store, free_port(), free_port(), presets=False)
    with servers as (stack, _), SyncPrefectClient(stack.api) as prefect:
        yield Site(stack, prefect, store)
