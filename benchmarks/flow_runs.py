"""Start flow runs of deployments and wait for them, through Prefect's client and its retries."""

import time
from collections.abc import Collection
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType

_POLL_SECONDS = 1.0


def start(client: SyncPrefectClient, deployment: str, config: dict[str, Any] | None = None) -> UUID:
    """Start a run of the deployment "flow/name", with `config` or its own settings, and return the id of the run.

    Raises:
        prefect.exceptions.PrefectHTTPStatusError: If the server refuses a value.
    """
    deployment_id = client.read_deployment_by_name(deployment).id
    parameters = {} if config is None else {"config": config}
    return client.create_flow_run_from_deployment(deployment_id, parameters=parameters).id


def wait(client: SyncPrefectClient, run: UUID, wanted: Collection[StateType] = TERMINAL_STATES) -> FlowRun:
    """Wait until a flow run reaches one of the wanted states, or ends, and return it."""
    while (flow_run := client.read_flow_run(run)).state_type not in {*wanted, *TERMINAL_STATES}:
        time.sleep(_POLL_SECONDS)
    return flow_run
