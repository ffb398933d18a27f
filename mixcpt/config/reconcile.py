"""What is looked through for remains of runs that died."""

from pydantic import Field

from mixcpt.config.base import Settings


class ReconcileConfig(Settings):
    """Close what died: runs in Prefect and MLflow whose process has ended, and what it left in the store."""

    store: str = Field(".mixcpt", json_schema_extra={"position": 0})
    """Folder of the artifact store."""
    experiment: str = Field("mixcpt", json_schema_extra={"position": 1})
    """MLflow experiment whose runs are looked at."""
    older_than_hours: float = Field(168.0, ge=0, json_schema_extra={"position": 2})
    """Half-written artifacts, and folders of batches with their logs, are kept for so long after the last change. What
    a process still works on is kept anyway."""
    dry_run: bool = Field(False, json_schema_extra={"position": 3})
    """List what would be done, and do nothing."""
