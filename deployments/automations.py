"""Automations of the Prefect server. `python -m deployments.automations` creates or updates all of them, by name.

To add one, write a function that returns it and add the function to `AUTOMATIONS`.
"""

from collections.abc import Callable
from datetime import timedelta

from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture, ResourceSpecification
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType

from mixcpt.servers.stack import DEFAULT_HEARTBEAT_SECONDS

_HEARTBEAT = "prefect.flow-run.heartbeat"
_STATES_WITHOUT_HEARTBEAT = ("Completed", "Failed", "Crashed", "Cancelled", "Suspended", "Paused")
_MAX_MISSED_HEARTBEATS = 3
"""Number of missed heartbeats after which a run counts as dead; fewer would also hit runs on busy machines."""


def crash_the_silent() -> AutomationCore:
    """Return the automation that marks runs without heartbeats as crashed, because their machine has died."""
    expected = {_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _STATES_WITHOUT_HEARTBEAT)}
    # The automation applies to all runs of the server, so it uses the longest of their intervals: the default.
    seconds = _MAX_MISSED_HEARTBEATS * DEFAULT_HEARTBEAT_SECONDS
    return AutomationCore(
        name="mixcpt: runs without a heartbeat are crashed",
        description=f"A run without a heartbeat for {seconds} seconds is dead; `mixcpt reconcile` cleans up after it.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect=expected,
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, name="Crashed", message=f"no heartbeat for {seconds} seconds: its machine died"
            )
        ],
    )


AUTOMATIONS: tuple[Callable[[], AutomationCore], ...] = (crash_the_silent,)


def apply(client: SyncPrefectClient) -> None:
    """Create missing automations and update the others; a disabled automation stays disabled."""
    for build in AUTOMATIONS:
        wanted = build()
        existing = client.read_automations_by_name(wanted.name)
        if not existing:
            client.create_automation(wanted)
        elif (updated := _with_switch_of(existing[0], wanted)) != _settings(existing[0]):
            client.update_automation(existing[0].id, updated)


def _with_switch_of(existing: AutomationCore, wanted: AutomationCore) -> AutomationCore:
    return AutomationCore.model_validate(wanted.model_dump() | {"enabled": existing.enabled})


def _settings(existing: AutomationCore) -> AutomationCore:
    return AutomationCore.model_validate(existing.model_dump(include=set(AutomationCore.model_fields)))


if __name__ == "__main__":
    with get_client(sync_client=True) as connected:
        apply(connected)
