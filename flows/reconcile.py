"""Cleans up after processes that died, and logs stages that are missing in MLflow."""

from prefect import flow
from rich.console import Console
from rich.table import Table

from mixcpt.config import ReconcileConfig
from mixcpt.report.words import printable
from tasks.hooks import label_process
from tasks.reconciliation import (
    Finding,
    close_mlflow_runs,
    end_dead_flow_runs,
    log_missed_stages,
    publish_findings,
    remove_leftovers,
)


@flow(name="reconcile", on_running=[label_process])
def reconcile(config: ReconcileConfig = ReconcileConfig()) -> list[Finding]:  # noqa: B008 the form shows the default
    """Clean up after processes that died: end their runs in Prefect and MLflow, and remove leftovers in the store.

    Measurements that could not be logged in MLflow before are logged now. Active runs are not changed.
    """
    findings = [*end_dead_flow_runs(config), *log_missed_stages(config)]
    findings += [*close_mlflow_runs(config), *remove_leftovers(config)]
    publish_findings(config, findings)
    return findings


def show(config: ReconcileConfig, findings: list[Finding]) -> None:
    """Print the findings as a table."""
    if not findings:
        print("no leftovers")
        return
    table = Table("kind", "name", "reason", "would be" if config.dry_run else "done")
    for finding in findings:
        table.add_row(finding.kind, printable(finding.name), finding.reason, finding.action)
    Console(markup=False).print(table)
