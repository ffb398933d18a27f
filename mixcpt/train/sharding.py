"""Training on several devices: parameters replicated (DDP), sharded (FSDP2), or sharded within each node (HSDP)."""

import os
from collections.abc import Callable
from typing import Any, cast

import torch
from accelerate import Accelerator, ParallelismConfig
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import PreTrainedModel

from mixcpt.config import Sharding
from mixcpt.errors import ConfigError


def sharding_arguments(sharding: Sharding, *, recompute: bool) -> dict[str, Any]:
    """Return the keyword arguments of `TrainingArguments` for a kind of sharding.

    Checkpoints are then sharded too (DCP): each process writes its own part, and any number of processes can read them.
    FSDP itself recomputes activations, which saves one gathering of the parameters.

    Raises:
        ConfigError: If there is only one process or no GPU; accelerate would replicate instead of shard.
    """
    if sharding == "none":
        return {}
    if environment("WORLD_SIZE", 1) == 1 or not torch.cuda.is_available():
        raise ConfigError(
            f"runtime.sharding is {sharding}, which needs several processes with a GPU each",
            "set runtime.num_processes to the number of GPUs, or runtime.sharding to none",
        )
    settings = {
        "version": 2,
        "reshard_after_forward": True,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "state_dict_type": "SHARDED_STATE_DICT",
        "cpu_ram_efficient_loading": False,
        "activation_checkpointing": recompute,
    }
    arguments = {"fsdp": "full_shard", "fsdp_config": settings, "activation_checkpointing": False}
    if sharding == "hybrid":
        per_node = environment("LOCAL_WORLD_SIZE", 1)
        replicas = environment("WORLD_SIZE", 1) // per_node
        arguments["parallelism_config"] = ParallelismConfig(dp_replicate_size=replicas, dp_shard_size=per_node)
    return arguments


def shard(model: PreTrainedModel, mesh: DeviceMesh) -> PreTrainedModel:
    """Shard the parameters of a teacher over `mesh`, by decoder layer, as accelerate shards the trained model."""
    for layer in model.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def shard_over_all(model: PreTrainedModel) -> PreTrainedModel:
    """Move the model to this process's GPU, shard it over all processes, and return it."""
    nn.Module.to(model, torch.device("cuda", environment("LOCAL_RANK", 0)))
    return shard(model, init_device_mesh("cuda", (environment("WORLD_SIZE", 1),)))


def through(wrapper: nn.Module, module: nn.Module, function: Callable[[], Any]) -> Any:
    """Call `function` within the forward of `wrapper` if that is DDP or FSDP, and return its result.

    DDP reduces gradients only for operations inside its own forward, and FSDP gathers the parameters outside of the
    decoder layers, such as the head, only there.
    """
    if wrapper is module and not isinstance(module, FSDPModule):
        return function()
    forward = module.forward

    def redirected() -> Any:
        module.forward = forward
        return function()

    module.forward = redirected
    return wrapper()


def gathered_state(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor] | None:
    """Gather all parameters on the first process's CPU, or return None if they are not sharded. A collective call."""
    if not isinstance(model, FSDPModule):
        return None
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    accelerator.wait_for_everyone()
    return cast(dict[str, Tensor], state)


def environment(name: str, default: int) -> int:
    """Return a number from the environment variables that torchrun sets."""
    return int(os.environ.get(name, default))
