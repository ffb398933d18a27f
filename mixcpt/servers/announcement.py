"""Notify a running Prefect server of a new corpus; re-adaptations also find the corpus in the store."""

import json
import os
import subprocess
import sys
from pathlib import Path

from mixcpt.rounds.registration import Delivery
from mixcpt.servers.stack import prefect_environment, running_api

EVENT = "mixcpt.corpus.registered"
_TIMEOUT_SECONDS = 120


def announce(delivery: Delivery, store: Path) -> str:
    """Notify the configured Prefect server, or that of `mixcpt up`, and return a sentence about the result."""
    later = "the next scheduled or manual re-adaptation finds it"
    api = os.environ.get("PREFECT_API_URL", "") or running_api(store)
    if not api:
        return f"no Prefect server is running; {later}"
    payload = {"corpus": delivery.name, "fingerprint": delivery.ref.fingerprint, "documents": delivery.num_documents}
    resource = ("--resource-id", f"mixcpt.corpus.{delivery.name}")
    command = [sys.executable, "-m", "prefect", "event", "emit", EVENT, *resource, "--payload", json.dumps(payload)]
    environment = {**os.environ, **prefect_environment(store), "PREFECT_API_URL": api}
    try:
        emitted = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"the Prefect server at {api} did not answer within {_TIMEOUT_SECONDS} seconds; {later}"
    if emitted.returncode:
        return f"the Prefect server at {api} refused the event ({emitted.stderr.strip()[-200:]}); {later}"
    return f"notified the Prefect server at {api}: event {EVENT}"
