"""Tells a running Prefect server that a corpus is here; whoever misses it finds the corpus in the store."""

import json
import os
import subprocess
import sys
from pathlib import Path

from mixcpt.rounds.registration import Registered
from mixcpt.servers.stack import prefect_environment, running_api

EVENT = "mixcpt.corpus.registered"
_TIMEOUT_SECONDS = 120


def announce(delivery: Registered, store: Path) -> str:
    """Returns in words whether the server was told: the one that is configured, or that of `mixcpt up`."""
    later = "the next scheduled or manual re-adaptation finds it"
    api = os.environ.get("PREFECT_API_URL", "") or running_api(store)
    if not api:
        return f"no Prefect server is running, so nobody was told; {later}"
    payload = {"corpus": delivery.name, "fingerprint": delivery.ref.fingerprint, "documents": delivery.num_documents}
    resource = ("--resource-id", f"mixcpt.corpus.{delivery.name}")
    command = [sys.executable, "-m", "prefect", "event", "emit", EVENT, *resource, "--payload", json.dumps(payload)]
    environment = {**os.environ, **prefect_environment(store), "PREFECT_API_URL": api}
    try:
        told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"the Prefect server at {api} did not answer; {later}"
    if told.returncode:
        return f"the Prefect server at {api} could not be told ({told.stderr.strip()[-200:]}); {later}"
    return f"told the Prefect server: event {EVENT}"
