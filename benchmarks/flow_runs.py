"""Flow runs of deployments, as people start and watch them; by Prefect's own client, with its retries."""

import time
from collections.abc import Collection
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType

_POLL_SECONDS = 1.0


def start(client: SyncPrefectClient, deployment: str, config: dict[str, Any] | None = None) -> UUID:
    """Returns the id of a run of a deployment, "flow/name", with these settings or with its own.

    Raises:
        prefect.exceptions.PrefectHTTPStatusError: If the server refuses a value.
    """
    found = client.read_deployment_by_name(deployment)
    parameters = {} if config is None else {"config": config}
    return client.create_flow_run_from_deployment(found.id, parameters=parameters).id


def wait(client: SyncPrefectClient, run: UUID, wanted: Collection[StateType] = TERMINAL_STATES) -> FlowRun:
    """Returns a flow run that has reached a type of state, or that has ended without."""
    while (found := client.read_flow_run(run)).state_type not in {*wanted, *TERMINAL_STATES}:
        time.sleep(_POLL_SECONDS)
    return found
