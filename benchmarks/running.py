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

import httpx

from mixcpt.stack import Stack, free_port, running_stack

ROOT = Path(__file__).resolve().parents[1]
_POLL_SECONDS = 1.0
_DEAD = ("FAILED", "CRASHED", "CANCELLED")


@dataclass
class Site:
    """A running stack, and its store."""

    stack: Stack
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

    def post(self, route: str, body: dict[str, Any]) -> Any:
        return httpx.post(f"{self.stack.api}/{route}", json=body, timeout=60).raise_for_status().json()

    def deployment(self, name: str) -> str:
        found = httpx.get(f"{self.stack.api}/deployments/name/readapt/{name}", timeout=60).raise_for_status().json()
        return str(found["id"])

    def start(self) -> str:
        """Returns the id of a round that somebody starts by hand."""
        body = {"state": {"type": "SCHEDULED"}}
        return str(self.post(f"deployments/{self.deployment('readapt')}/create_flow_run", body)["id"])

    def started_since(self, moment: datetime) -> str:
        """Returns the id of the round that an event has started, once it runs."""
        by_event = {"any_": [self.deployment("readapt-on-corpus")]}
        later = {"after_": moment.isoformat()}
        wanted = {"flow_runs": {"deployment_id": by_event, "start_time": later}}
        while not (found := self.post("flow_runs/filter", wanted)):
            time.sleep(_POLL_SECONDS)
        return str(found[0]["id"])

    def wait(self, run: str, wanted: str = "COMPLETED") -> dict[str, Any]:
        """Returns a flow run that has reached a type of state.

        Raises:
            RuntimeError: If it cannot any more.
        """
        while True:
            found = httpx.get(f"{self.stack.api}/flow_runs/{run}", timeout=60).raise_for_status().json()
            if found["state"]["type"] == wanted:
                return dict(found)
            if found["state"]["type"] in _DEAD:
                raise RuntimeError(f"{found['name']} became {found['state']['name']}: {found['state']['message']}")
            time.sleep(_POLL_SECONDS)

    def answer(self, run: str, **given: Any) -> str:
        """Returns what became of an answer to a paused run: ACCEPT or REJECT."""
        return str(self.post(f"flow_runs/{run}/resume", {"run_input": given})["status"])


@contextmanager
def running_site(store: Path) -> Iterator[Site]:
    with running_stack(store, ROOT, free_port(), free_port(), presets=False) as (stack, _):
        yield Site(stack, store)
