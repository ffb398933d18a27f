"""Refuse models with weights that are NaN or infinite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mixcpt.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def require_finite_weights(loaded: PreTrainedModel, folder: Path) -> None:
    """Raise `ModelError` if a value of the weights is NaN or infinite; reads them once, at the speed of memory."""
    damaged = [name for name, values in loaded.named_parameters() if not _is_finite(values)]
    if damaged:
        files = sorted(folder.glob("*.safetensors"))
        place = next(filter(None, map(_damaged_tensor, files)), f"{damaged[0]} of {folder}")
        raise ModelError(
            f"{place} has values that are not finite (NaN or infinity); {len(damaged)} tensors of the model have such",
            "use another checkpoint: this model was damaged in training or in a conversion",
        )


def _is_finite(values: torch.Tensor) -> bool:
    if not values.numel() or not values.is_floating_point() or values.is_meta:
        return True
    least, greatest = values.detach().aminmax()  # both are NaN if a value is
    return bool(least.isfinite()) and bool(greatest.isfinite())


def _damaged_tensor(file: Path) -> str:
    """Return the first tensor of a weight file with a value that is not finite, with its file; or nothing."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        names = (name for name in opened.keys() if not _is_finite(opened.get_tensor(name)))  # noqa: SIM118
        return next((f"{name} in {file}" for name in names), "")
