"""Models that differ from the tiny one in a known way, for the tests of merging."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from mixcpt.config import BaseModelConfig
from mixcpt.store.models import ModelRef, resolve_model


def moved_model(model: ModelRef, folder: Path, seed: int, *, dtype: torch.dtype = torch.float32, **saving: Any) -> Any:
    """Save the model with seeded noise on every weight, with its tokenizer and chat template."""
    network = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in network.parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=generator)
    return save(network.to(dtype), model, folder, **saving)


def other_model(model: ModelRef, folder: Path, **changes: Any) -> ModelRef:
    """Save a random model with the same tokenizer and a changed configuration."""
    config = LlamaConfig.from_pretrained(model.path)
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(1)
    return save(LlamaForCausalLM(config), model, folder)


def save(network: Any, like: ModelRef, folder: Path, **saving: Any) -> ModelRef:
    network.save_pretrained(folder, **saving)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(like.directory / name, folder)
    return resolve(folder)


def resolve(folder: Path) -> ModelRef:
    return resolve_model(BaseModelConfig(model=str(folder)))


def weights_of(folder: Path | str) -> dict[str, torch.Tensor]:
    """Return the tensors of a model as transformers loads them, in the number format of its files."""
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())
