"""Closes what died: flow runs and MLflow runs without a process, measurements nobody logged, remains in the store.

Dead is a process of this machine that has ended. Of other machines nothing is assumed: they are for the automation on
heartbeats and for their own `mixcpt reconcile`.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed

from mixcpt.config import ReconcileConfig, RuntimeConfig
from mixcpt.servers.stack import DEFAULT_HEARTBEAT_SECONDS
from mixcpt.stages.leftovers import Missed, missed_stages, old_batches, old_drafts, published_spools
from mixcpt.store.artifacts import ArtifactStore
from tasks.stage_runs import record_stage
from tasks.tracking import (
    FLOW_RUN,
    PARENT,
    PROCESS,
    ROOT_FLOW_RUN,
    STAGE_KEY,
    Place,
    Tracking,
    forgiving,
    is_dead,
    is_neighbour,
    open_tracking,
)

_PAGE = 200
_SILENT_SECONDS = 3 * DEFAULT_HEARTBEAT_SECONDS
_SETTLED_SECONDS = 120
"""How long a flow run has ended before its MLflow runs count as forgotten: until then its hooks may be at it."""
_UNDER_WAY = (StateType.RUNNING, StateType.CANCELLING)
_ENDS = {StateType.COMPLETED: "FINISHED", StateType.CANCELLED: "KILLED"}
_DEAD = "its process has ended"
_PART_OF_ENDED = "the run that it is part of has ended"


@dataclass(frozen=True)
class Finding:
    """One thing that was left open, and what is done about it."""

    what: str
    name: str
    reason: str
    action: str


@task(name="flow runs of the dead")
def end_dead_flow_runs(config: ReconcileConfig) -> list[Finding]:
    """Returns the flow runs of dead processes, after ending them in Prefect."""
    findings = []
    with get_client(sync_client=True) as client:
        for run, reason in _dead_flow_runs(client):
            end = _end_of(run, reason)
            if not config.dry_run:
                client.set_flow_run_state(run.id, end, force=True)
            findings.append(Finding("flow run", run.name, reason, f"set to {end.name}"))
    return findings


@task(name="stages that MLflow missed")
def replay_missed_stages(config: ReconcileConfig) -> list[Finding]:
    """Returns the finished stages of which MLflow lacks something, after logging it."""
    store, tracking = ArtifactStore(config.store), _tracking(config)
    missed = missed_stages(store)
    findings = [
        Finding("stage", each.job.name, f"its measurements are still in {each.spool.path.name}", "logged in MLflow")
        for each in missed
        if config.dry_run or _replay(tracking, each)
    ]
    known = {each.spool.path for each in missed}
    for fingerprint, spool in published_spools(store):
        if spool.path not in known and _is_logged(tracking, fingerprint):
            if not config.dry_run:
                spool.remove()
            findings.append(Finding("spool", spool.path.name, "MLflow has all of it", "removed"))
    return findings


@task(name="MLflow runs of the dead")
def close_mlflow_runs(config: ReconcileConfig) -> list[Finding]:
    """Returns the MLflow runs that nobody will finish, after closing them."""
    with get_client(sync_client=True) as client:
        return _close_open_runs(_tracking(config), _Judge(client), config.dry_run) or []


@task(name="remains in the store")
def remove_remains(config: ReconcileConfig) -> list[Finding]:
    """Returns half-written artifacts and folders of batches that are old and in nobody's use, after removing them."""
    store, seconds = ArtifactStore(config.store), 3600 * config.older_than_hours
    needed = {each.batch for each in missed_stages(store)}
    folders = [*old_drafts(store, seconds), *(batch for batch in old_batches(store, seconds) if batch not in needed)]
    for folder in folders:
        if not config.dry_run:
            shutil.rmtree(folder, ignore_errors=True)
    reason = f"unchanged for more than {config.older_than_hours:g} hours"
    return [Finding("folder", str(folder.relative_to(store.root)), reason, "removed") for folder in folders]


@task(name="publish")
def publish_findings(config: ReconcileConfig, findings: Sequence[Finding]) -> None:
    """Shows the findings in Prefect: their number by kind, and a table."""
    title = "Would be done (dry run)" if config.dry_run else "Done"
    counts = Counter(f"{finding.what}s {finding.action}" for finding in findings)
    lines = [f"- {number} {what}" for what, number in sorted(counts.items())] or ["- nothing was left open"]
    create_markdown_artifact("\n".join([f"# {title}", "", *lines]), key="reconciliation", description=title)
    create_table_artifact([asdict(finding) for finding in findings], key="reconciliation-table", description=title)


def _tracking(config: ReconcileConfig) -> Tracking:
    return open_tracking(Place.of(RuntimeConfig(store=config.store, experiment=config.experiment)))


def _dead_flow_runs(client: SyncPrefectClient) -> list[tuple[FlowRun, str]]:
    """Returns the flow runs that are under way by their state alone, and how that is known of each."""
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_UNDER_WAY))))
    found: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE, offset=len(found)):
        found += page
    return [(run, reason) for run in found if (reason := _reason_of_death(client, run))]


def _reason_of_death(client: SyncPrefectClient, run: FlowRun) -> str:
    """Returns why a flow run is known to be dead; empty where it may be alive."""
    root, owner = _root(client, run), str(run.labels.get(PROCESS, ""))
    if _has_died(client, owner, root):
        return _DEAD
    if owner and is_neighbour(owner):  # it is seen to be alive
        return ""
    return _PART_OF_ENDED if root.id != run.id and _has_settled(root) else ""


def _root(client: SyncPrefectClient, run: FlowRun) -> FlowRun:
    """Returns the outermost flow run in the process of a run: the one whose heartbeat is that of all of them."""
    while run.parent_task_run_id and (of := client.read_task_run(run.parent_task_run_id).flow_run_id):
        caller = client.read_flow_run(of)
        if caller.labels.get(PROCESS) != run.labels.get(PROCESS):  # a stage group, on another work pool
            break
        run = caller
    return run


def _has_settled(run: FlowRun) -> bool:
    """Returns whether a flow run ended so long ago that its hooks are done."""
    state = run.state
    settled = timedelta(seconds=_SETTLED_SECONDS)
    return bool(state and state.is_final() and datetime.now(UTC) - state.timestamp > settled)


def _has_died(client: SyncPrefectClient, owner: str, run: FlowRun | None) -> bool:
    """Returns whether the process of a flow run has ended.

    Where it ran under the name of this host, but before its last boot or in another container, hosts of one name could
    be mistaken for each other: there the run must have been silent too.
    """
    if not owner or not is_dead(owner):
        return False
    return is_neighbour(owner) or run is None or not _was_heard(client, run.id)


def _was_heard(client: SyncPrefectClient, flow_run_id: UUID) -> bool:
    recent = EventFilter(
        occurred=EventOccurredFilter(since=datetime.now(UTC) - timedelta(seconds=_SILENT_SECONDS)),
        event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{flow_run_id}"]),
    )
    return bool(client.read_events(recent, limit=1).events)


def _end_of(run: FlowRun, reason: str) -> State[object]:
    if run.state and run.state.type == StateType.CANCELLING:
        return Cancelled(message=reason)
    return Crashed(message=f"{reason} (found by reconcile)")


def _replay(tracking: Tracking, missed: Missed) -> bool:
    """Returns whether all of a stage is in MLflow now, below the run that it belonged to where there was one."""
    parent = _parent_of(tracking, missed.ref.fingerprint)
    return bool(record_stage(tracking, missed.job, missed.ref, missed.spool, parent or "", {}))


@forgiving
def _parent_of(tracking: Tracking, fingerprint: str) -> str:
    runs = tracking.find(f"tags.`{STAGE_KEY}` = '{fingerprint}'")
    return str(runs[0].data.tags.get(PARENT, "")) if runs else ""


@forgiving
def _is_logged(tracking: Tracking, fingerprint: str) -> bool:
    return bool(tracking.finished_run(STAGE_KEY, fingerprint))


@forgiving
def _close_open_runs(tracking: Tracking, judge: "_Judge", dry_run: bool) -> list[Finding]:
    findings = []
    for run in tracking.find("attributes.status = 'RUNNING'", 1000):
        status, reason = judge(run.data.tags)
        if status:
            if not dry_run:
                tracking.close(run.info.run_id, status)
            findings.append(Finding("MLflow run", run.info.run_name, reason, f"set to {status}"))
    return findings


class _Judge:
    """Says how an open MLflow run has ended, by its flow run and by its process."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self.client = client
        self.flow_runs: dict[str, FlowRun | None] = {}

    def __call__(self, tags: dict[str, str]) -> tuple[str, str]:
        """Returns the status in MLflow and the reason; two empty texts for a run that may still be alive."""
        run = self._flow_run(tags.get(ROOT_FLOW_RUN) or tags.get(FLOW_RUN, ""))
        state = run.state if run else None
        owner = tags.get(PROCESS, "")
        if run and state and _has_settled(run):
            return _ENDS.get(state.type, "FAILED"), f"its flow run is {state.name}"
        if _has_died(self.client, owner, run):
            return "KILLED", _DEAD
        return "", ""

    def _flow_run(self, flow_run_id: str) -> FlowRun | None:
        """Returns a flow run, None where this server does not know it."""
        if flow_run_id and flow_run_id not in self.flow_runs:
            try:
                self.flow_runs[flow_run_id] = self.client.read_flow_run(UUID(flow_run_id))
            except ObjectNotFound:
                self.flow_runs[flow_run_id] = None
        return self.flow_runs.get(flow_run_id)
