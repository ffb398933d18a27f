"""Where and how a run happens; nothing here may change a result, so nothing here is part of an identity."""

from pydantic import Field

from mixcpt.config.base import PositiveInt, Settings


class RuntimeConfig(Settings):
    """Places and processes."""

    store: str = ".mixcpt"
    """Folder of the artifact store, and of the local tracking database beside it."""
    experiment: str = "mixcpt"
    """MLflow experiment."""
    registered_model: str = "mixcpt-adapted"
    """Name under which the final model is registered in MLflow."""
    num_threads: int = Field(0, ge=0)
    """CPU threads of a stage; 0 takes all."""
    num_processes: PositiveInt = 1
    """Training processes on this machine; above 1 they are started by torchrun."""
    retries: int = Field(2, ge=0)
    """How often an interrupted stage is taken up again."""
    timeout_seconds: int = Field(0, ge=0)
    """A stage that takes longer is stopped, its checkpoints kept; 0 sets no limit."""
