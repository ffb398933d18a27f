"""Where and how a run happens; nothing here may change a result, so nothing here is part of an identity."""

from typing import Literal

from pydantic import Field, model_validator

from mixcpt.config.base import PositiveInt, Settings

Sharding = Literal["none", "full", "hybrid"]


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
    """Training processes, over all machines; above 1 they are started by torchrun."""
    sharding: Sharding = "none"
    """`none`: every process holds the whole model. `full`: parameters, gradients and optimiser are spread over all GPUs
    (FSDP2). `hybrid`: over those of a machine, and replicated between machines."""
    launcher: str = ""
    """Command that starts the training processes on several machines, such as `srun torchrun --nnodes=2 ...`; empty
    starts num_processes on this one. The worker and its job are appended to it."""
    devices: int = Field(-1, ge=-1)
    """GPUs of this machine that a training takes, and for which it waits until they are free. -1 takes one a process
    where there are any, or leaves the choice to the launcher; 0 trains on the CPU."""
    gpu_pool: str = ""
    """Prefect work pool whose workers run the stages that take a GPU, as flow runs of their own; the rest runs where
    the flow does. Both see the store under the same path. Empty: everything runs where the flow does. `mixcpt deploy
    --gpu-pool` makes the pool known."""
    retries: int = Field(2, ge=0)
    """How often an interrupted stage is taken up again."""
    timeout_seconds: int = Field(0, ge=0)
    """A stage that takes longer is stopped, its checkpoints kept; 0 sets no limit."""

    @model_validator(mode="after")
    def _check(self) -> "RuntimeConfig":
        if self.devices > 0 and not self.launcher and self.devices != self.num_processes:
            raise ValueError(
                f"devices is {self.devices}, and num_processes is {self.num_processes}: a process takes one GPU, "
                "so make them equal, or set devices to -1"
            )
        return self

    @property
    def is_distributed(self) -> bool:
        """Whether training takes more than one process."""
        return self.num_processes > 1 or bool(self.launcher)
