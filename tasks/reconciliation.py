"""Cleans up after processes that died: open runs in Prefect and MLflow, unlogged stages, and leftovers in the store.

A process counts as dead only if it ran on this machine and has ended. Processes of other machines are handled by the
automation on heartbeats and by `mixcpt reconcile` on those machines.
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
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed

from mixcpt.config import ReconcileConfig, RuntimeConfig
from mixcpt.servers.stack import DEFAULT_HEARTBEAT_SECONDS
from mixcpt.stages.leftovers import UnloggedStage, old_batches, old_drafts, published_spools, unlogged_stages
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
"""Time after the end of a flow run in which its hooks may still close its MLflow runs."""
_ACTIVE = (StateType.RUNNING, StateType.CANCELLING)
_ENDS = {StateType.COMPLETED: "FINISHED", StateType.CANCELLED: "KILLED"}
_PROCESS_ENDED = "its process has ended"
_PARENT_ENDED = "the run that it is part of has ended"


@dataclass(frozen=True)
class Finding:
    """One leftover and the action that is taken."""

    kind: str
    name: str
    reason: str
    action: str


@task(name="end dead flow runs")
def end_dead_flow_runs(config: ReconcileConfig) -> list[Finding]:
    """End the flow runs of dead processes in Prefect, and return them as findings."""
    findings = []
    with get_client(sync_client=True) as client:
        for run, reason in _dead_flow_runs(client):
            end: State[object] = Crashed(message=f"{reason} (found by reconcile)")
            if run.state and run.state.type == StateType.CANCELLING:
                end = Cancelled(message=reason)
            if not config.dry_run:
                client.set_flow_run_state(run.id, end, force=True)
            findings.append(Finding("flow run", run.name, reason, f"set to {end.name}"))
    return findings


@task(name="log missed stages")
def log_missed_stages(config: ReconcileConfig) -> list[Finding]:
    """Log finished stages that MLflow lacks, remove spools that it has completely, and return both as findings."""
    store, tracking = ArtifactStore(config.store), _tracking(config)
    stages = unlogged_stages(store)
    findings = [
        Finding("stage", stage.job.name, f"its measurements are still in {stage.spool.path.name}", "logged in MLflow")
        for stage in stages
        if config.dry_run or _log_stage(tracking, stage)
    ]
    handled = {stage.spool.path for stage in stages}
    for fingerprint, spool in published_spools(store):
        if spool.path not in handled and _is_logged(tracking, fingerprint):
            if not config.dry_run:
                spool.remove()
            findings.append(Finding("spool", spool.path.name, "MLflow has all of it", "removed"))
    return findings


@task(name="close dead MLflow runs")
def close_mlflow_runs(config: ReconcileConfig) -> list[Finding]:
    """Close the open MLflow runs whose flow run or process has ended, and return them as findings."""
    with get_client(sync_client=True) as client:
        return _close_open_runs(_tracking(config), _RunStatus(client), dry_run=config.dry_run) or []


@task(name="remove leftovers")
def remove_leftovers(config: ReconcileConfig) -> list[Finding]:
    """Remove old and unused drafts of artifacts and folders of batches, and return them as findings."""
    store, seconds = ArtifactStore(config.store), 3600 * config.older_than_hours
    needed = {stage.batch for stage in unlogged_stages(store)}
    folders = [*old_drafts(store, seconds), *(batch for batch in old_batches(store, seconds) if batch not in needed)]
    for folder in folders:
        if not config.dry_run:
            shutil.rmtree(folder, ignore_errors=True)
    reason = f"unchanged for more than {config.older_than_hours:g} hours"
    return [Finding("folder", str(folder.relative_to(store.root)), reason, "removed") for folder in folders]


@task(name="publish findings")
def publish_findings(config: ReconcileConfig, findings: Sequence[Finding]) -> None:
    """Publish the findings in Prefect: their number by kind, and a table."""
    title = "Would be done (dry run)" if config.dry_run else "Done"
    counts = Counter(f"{finding.kind}s {finding.action}" for finding in findings)
    lines = [f"- {count} {label}" for label, count in sorted(counts.items())] or ["- no leftovers"]
    create_markdown_artifact("\n".join([f"# {title}", "", *lines]), key="reconciliation", description=title)
    create_table_artifact([asdict(finding) for finding in findings], key="reconciliation-table", description=title)


def _tracking(config: ReconcileConfig) -> Tracking:
    return open_tracking(Place.of(RuntimeConfig(store=config.store, experiment=config.experiment)))


def _dead_flow_runs(client: SyncPrefectClient) -> list[tuple[FlowRun, str]]:
    """Return the flow runs with an active state that are dead, each with the reason."""
    is_active = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_ACTIVE))))
    runs: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=is_active, limit=_PAGE, offset=len(runs)):
        runs += page
    return [(run, reason) for run in runs if (reason := _reason_of_death(client, run))]


def _reason_of_death(client: SyncPrefectClient, run: FlowRun) -> str:
    """Return the evidence that a flow run is dead; empty if it may be alive."""
    root, owner = _root(client, run), str(run.labels.get(PROCESS, ""))
    if _has_died(client, owner, root):
        return _PROCESS_ENDED
    if owner and is_neighbour(owner):  # its process is known to be alive
        return ""
    return _PARENT_ENDED if root.id != run.id and _has_settled(root) else ""


def _root(client: SyncPrefectClient, run: FlowRun) -> FlowRun:
    """Return the outermost flow run in the process of a run; only that one sends heartbeats."""
    while run.parent_task_run_id and (parent_id := client.read_task_run(run.parent_task_run_id).flow_run_id):
        parent = client.read_flow_run(parent_id)
        if parent.labels.get(PROCESS) != run.labels.get(PROCESS):  # a stage group on another work pool
            break
        run = parent
    return run


def _has_settled(run: FlowRun) -> bool:
    """Return whether a flow run ended so long ago that its hooks have finished."""
    settled = datetime.now(UTC) - timedelta(seconds=_SETTLED_SECONDS)
    return bool(run.state and run.state.is_final() and run.state.timestamp < settled)


def _has_died(client: SyncPrefectClient, owner: str, run: FlowRun | None) -> bool:
    """Return whether the process of a flow run has ended.

    A process from before the last boot or from another container may belong to a different host of the same name. Such
    a run counts as dead only if it has also stopped sending heartbeats.
    """
    if not owner or not is_dead(owner):
        return False
    return is_neighbour(owner) or run is None or not _has_heartbeat(client, run.id)


def _has_heartbeat(client: SyncPrefectClient, flow_run_id: UUID) -> bool:
    recent = EventFilter(
        occurred=EventOccurredFilter(since=datetime.now(UTC) - timedelta(seconds=_SILENT_SECONDS)),
        event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{flow_run_id}"]),
    )
    return bool(client.read_events(recent, limit=1).events)


def _log_stage(tracking: Tracking, stage: UnloggedStage) -> bool:
    """Log a stage in MLflow, below its earlier parent run if there is one, and return whether that succeeded."""
    parent = _parent_of(tracking, stage.ref.fingerprint) or ""
    return bool(record_stage(tracking, stage.job, stage.ref, stage.spool, parent=parent, tags={}))


@forgiving
def _parent_of(tracking: Tracking, fingerprint: str) -> str:
    runs = tracking.find(f"tags.`{STAGE_KEY}` = '{fingerprint}'")
    return str(runs[0].data.tags.get(PARENT, "")) if runs else ""


@forgiving
def _is_logged(tracking: Tracking, fingerprint: str) -> bool:
    return bool(tracking.finished_run(STAGE_KEY, fingerprint))


@forgiving
def _close_open_runs(tracking: Tracking, final_status: "_RunStatus", *, dry_run: bool) -> list[Finding]:
    findings = []
    for run in tracking.find("attributes.status = 'RUNNING'", 1000):
        status, reason = final_status(run.data.tags)
        if status:
            if not dry_run:
                tracking.close(run.info.run_id, status)
            findings.append(Finding("MLflow run", run.info.run_name, reason, f"set to {status}"))
    return findings


class _RunStatus:
    """Derives the final status of an open MLflow run from its flow run and its process."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self.client = client
        self.flow_runs: dict[str, FlowRun | None] = {}

    def __call__(self, tags: dict[str, str]) -> tuple[str, str]:
        """Return the status in MLflow and the reason; two empty texts if the run may still be alive."""
        run = self._flow_run(tags.get(ROOT_FLOW_RUN) or tags.get(FLOW_RUN, ""))
        if run and run.state and _has_settled(run):
            return _ENDS.get(run.state.type, "FAILED"), f"its flow run is {run.state.name}"
        return ("KILLED", _PROCESS_ENDED) if _has_died(self.client, tags.get(PROCESS, ""), run) else ("", "")

    def _flow_run(self, flow_run_id: str) -> FlowRun | None:
        """Return a flow run; None if this server has no such run."""
        if flow_run_id and flow_run_id not in self.flow_runs:
            try:
                self.flow_runs[flow_run_id] = self.client.read_flow_run(UUID(flow_run_id))
            except ObjectNotFound:
                self.flow_runs[flow_run_id] = None
        return self.flow_runs.get(flow_run_id)
