"""What the server does by itself: `python -m deployments.automations` makes or renews each automation, by its name.

A new one is a function that returns it, and an entry in `AUTOMATIONS`.
"""

from collections.abc import Callable
from datetime import timedelta

from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture, ResourceSpecification
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType

from mixcpt.servers.stack import DEFAULT_HEARTBEAT_SECONDS

_HEARTBEAT = "prefect.flow-run.heartbeat"
_SILENT_BY_RIGHT = ("Completed", "Failed", "Crashed", "Cancelled", "Suspended", "Paused")
"""States in which a run says nothing any more, and is not dead."""
_PATIENCE = 3
"""Heartbeats that may be missed; with fewer, the run of a busy machine would be called dead."""


def crash_the_silent() -> AutomationCore:
    """Returns the automation that marks as crashed what stopped saying that it lives: its machine has died."""
    expected = {_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _SILENT_BY_RIGHT)}
    seconds = _PATIENCE * DEFAULT_HEARTBEAT_SECONDS  # the rule is for every run of the server, not for ours alone
    return AutomationCore(
        name="mixcpt: runs without a heartbeat are crashed",
        description=f"Who has said nothing for {seconds} seconds is dead; `mixcpt reconcile` closes the rest of it.",
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
    """Makes each automation that is not there, and renews the others; one that somebody switched off stays off."""
    for build in AUTOMATIONS:
        wanted = build()
        found = client.read_automations_by_name(wanted.name)
        if not found:
            client.create_automation(wanted)
        elif (renewed := _with_switch_of(found[0], wanted)) != _settings(found[0]):
            client.update_automation(found[0].id, renewed)


def _with_switch_of(found: AutomationCore, wanted: AutomationCore) -> AutomationCore:
    return AutomationCore.model_validate(wanted.model_dump() | {"enabled": found.enabled})


def _settings(found: AutomationCore) -> AutomationCore:
    return AutomationCore.model_validate(found.model_dump(include=set(AutomationCore.model_fields)))


if __name__ == "__main__":
    with get_client(sync_client=True) as connected:
        apply(connected)
