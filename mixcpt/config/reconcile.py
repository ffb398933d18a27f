"""Clean-up after runs that died."""

from pydantic import Field

from mixcpt.config.base import Settings


class ReconcileConfig(Settings):
    """Close runs in Prefect and MLflow whose process has ended, and remove their leftovers from the store."""

    store: str = Field(".mixcpt", json_schema_extra={"position": 0})
    """Folder of the artifact store."""
    experiment: str = Field("mixcpt", json_schema_extra={"position": 1})
    """MLflow experiment whose runs are checked."""
    older_than_hours: float = Field(168.0, ge=0, json_schema_extra={"position": 2})
    """Minimum age of leftovers before they are removed, in hours since their last change: half-written artifacts, and
    folders of batches with their logs. 0 removes all. Files that a running process uses are always kept."""
    dry_run: bool = Field(False, json_schema_extra={"position": 3})
    """Whether to only list the actions, without performing them."""
