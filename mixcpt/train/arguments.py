"""Translates optimiser settings to the arguments of a `transformers.Trainer`, for pre-training, SFT and DPO."""

from pathlib import Path
from typing import Any

import torch

from mixcpt.config import OptimizerConfig, require_optimizer

_OPTIMIZERS = {"fp32": "adamw_torch_fused", "int8": "adamw_8bit"}


def training_arguments(
    optimizer: OptimizerConfig,
    *,
    folder: Path,
    seed: int,
    micro_batch_size: int,
    accumulation_steps: int = 1,
    epochs: int = 1,
    log_steps: int = 10,
    checkpoint_steps: int = 100,
    precision: str = "fp32",
    gradient_checkpointing: bool = False,
) -> dict[str, Any]:
    """Return keyword arguments for `TrainingArguments` and its subclasses in TRL.

    They contain no schedule, because `ScheduledTrainer` has its own. The newest two checkpoints are kept in `folder`,
    because a crash may leave one of them incomplete.

    Raises:
        ConfigError: If the library of the optimiser is missing.
    """
    require_optimizer(optimizer)
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(folder),
        "seed": seed,
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": accumulation_steps,
        "num_train_epochs": epochs,
        "learning_rate": optimizer.learning_rate,
        "optim": _OPTIMIZERS[optimizer.state],
        "weight_decay": optimizer.weight_decay,
        "adam_beta1": optimizer.beta1,
        "adam_beta2": optimizer.beta2,
        "max_grad_norm": optimizer.max_grad_norm,
        "bf16": precision == "bf16",
        "activation_checkpointing": gradient_checkpointing,
        "logging_strategy": "steps",
        "logging_steps": log_steps,
        "save_strategy": "steps",
        "save_steps": checkpoint_steps,
        "save_total_limit": 2,
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "ddp_find_unused_parameters": False,
        "disable_tqdm": True,
        "report_to": "none",
        "push_to_hub": False,
    }
