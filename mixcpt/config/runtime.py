"""Places and processes of a run. Nothing here may change a result, so nothing here is part of a fingerprint."""

from typing import Literal

from pydantic import Field, model_validator

from mixcpt.config.base import PositiveInt, Settings

Sharding = Literal["none", "full", "hybrid"]


class RuntimeConfig(Settings):
    """Places and processes; no setting here changes a result."""

    store: str = ".mixcpt"
    """Folder of the artifact store; the local tracking database lies next to it."""
    experiment: str = "mixcpt"
    """Name of the MLflow experiment."""
    registered_model: str = "mixcpt-adapted"
    """Name of the final model in MLflow's registry."""
    num_threads: int = Field(0, ge=0)
    """CPU threads per stage; 0 uses all."""
    num_processes: PositiveInt = 1
    """Number of training processes on all machines together; more than 1 are started by torchrun."""
    sharding: Sharding = "none"
    """Distribution of parameters, gradients and optimiser state (FSDP2). `none`: every process has the whole model.
    `full`: distributed over all GPUs. `hybrid`: distributed over the GPUs of one machine, replicated between
    machines."""
    launcher: str = ""
    """Command that starts the training processes on several machines, such as `srun torchrun --nnodes=2 ...`; the
    worker module and its job file are appended to it. Empty starts `num_processes` on this machine."""
    devices: int = Field(-1, ge=-1)
    """Number of GPUs of this machine that a training reserves, waiting until they are free. -1 reserves one per process
    if the machine has GPUs, or leaves the choice to the launcher; 0 trains on the CPU."""
    gpu_pool: str = ""
    """Prefect work pool whose workers run the GPU stages as separate flow runs; its machines must see the store under
    the same path, and `mixcpt deploy --gpu-pool` must have been run. Empty runs all stages on the machine of the
    flow."""
    retries: int = Field(2, ge=0)
    """Maximum number of restarts of an interrupted stage; training continues from its last checkpoint. 0 never
    restarts."""
    with_traditional: bool = False
    """Whether the traditional chain runs first, with the same data and number of tokens, and both are shown on one
    page."""
    timeout_seconds: int = Field(0, ge=0)
    """Maximum duration of a stage in seconds, after which it is stopped and its checkpoints are kept; 0 means no
    limit."""

    @model_validator(mode="after")
    def _check(self) -> "RuntimeConfig":
        if self.devices > 0 and not self.launcher and self.devices != self.num_processes:
            raise ValueError(
                f"devices is {self.devices} and num_processes is {self.num_processes}, but a process uses one GPU: "
                "set both to the same number, or devices to -1"
            )
        return self

    @property
    def is_distributed(self) -> bool:
        """Whether training runs in more than one process."""
        return self.num_processes > 1 or bool(self.launcher)
