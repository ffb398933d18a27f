"""Closes what died, and logs what MLflow missed."""

from prefect import flow
from rich.console import Console
from rich.table import Table

from mixcpt.config import ReconcileConfig
from mixcpt.report.words import printable
from tasks.hooks import remember_process
from tasks.reconciliation import (
    Finding,
    close_mlflow_runs,
    end_dead_flow_runs,
    publish_findings,
    remove_remains,
    replay_missed_stages,
)


@flow(name="reconcile", on_running=[remember_process])
def reconcile(config: ReconcileConfig = ReconcileConfig()) -> list[Finding]:  # noqa: B008 the form shows the default
    """Close what died: runs in Prefect and MLflow whose process has ended, and what it left in the store.

    Measurements that MLflow missed while it was away are logged now. What runs is never touched.
    """
    findings = [*end_dead_flow_runs(config), *replay_missed_stages(config)]
    findings += [*close_mlflow_runs(config), *remove_remains(config)]
    publish_findings(config, findings)
    return findings


def show(config: ReconcileConfig, findings: list[Finding]) -> None:
    """Prints what was found, and what was done about it."""
    if not findings:
        print("nothing was left open")
        return
    table = Table("what", "name", "why", "would be" if config.dry_run else "done")
    for finding in findings:
        table.add_row(finding.what, printable(finding.name), finding.reason, finding.action)
    Console(markup=False).print(table)
