"""Writes a merged model: one shard in memory at a time, computed in fp32, in the number format of one of the models."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import save_file
from torch import Tensor

from mixcpt.errors import ModelError
from mixcpt.merge.checkpoint import INDEX, Checkpoint
from mixcpt.store.models import ModelRef

Combine = Callable[[Iterator[Tensor]], Tensor]
"""From one tensor of every model, in fp32 and in the order of the models, to the merged one; changes none in place."""

_CONFIG = "config.json"
_COPIED = (
    "generation_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*token*.json",
    "*.model",
    "*.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
"""What belongs to a model beside weights and configuration; cards and recipes tell of another model."""


@dataclass
class Tally:
    """What a merge changed, gathered tensor by tensor."""

    num_parameters: int = 0
    squared_change: dict[str, float] = field(default_factory=dict)
    """Squared L2 norm of merged - model, by the model's role."""
    squared_norm: dict[str, float] = field(default_factory=dict)
    """Squared L2 norm of the model itself."""

    def add(self, role: str, tensor: Tensor, merged: Tensor) -> None:
        self.squared_change[role] = self.squared_change.get(role, 0.0) + _squared_norm(merged - tensor)
        self.squared_norm[role] = self.squared_norm.get(role, 0.0) + _squared_norm(tensor)

    @property
    def change_norm(self) -> dict[str, float]:
        """L2 norm of merged - model, over all weights."""
        return {role: math.sqrt(square) for role, square in self.squared_change.items()}

    @property
    def relative_change(self) -> dict[str, float]:
        """The same as a share of the model's own norm."""
        norms = {role: math.sqrt(square) for role, square in self.squared_norm.items()}
        return {role: change / norms[role] if norms[role] else 0.0 for role, change in self.change_norm.items()}


def write_weights(
    folder: Path, checkpoints: Mapping[str, Checkpoint], like: str, combine: Combine, max_shard_bytes: int
) -> Tally:
    """Writes the merged tensors into `folder`, as one safetensors file or as shards with their index.

    Args:
        folder: An empty folder.
        checkpoints: Models with the same tensors, by role.
        like: The role of the model whose number formats the result has.
        combine: How the tensors of the models become one.
        max_shard_bytes: Size limit of a file; the shard being written is what is held in memory.

    Raises:
        ModelError: If a tensor that is no weight differs between the models, or a result is not finite.
    """
    tally = Tally()
    model = checkpoints[like]
    shards = split_state_dict_into_shards_factory(
        {name: model.tensor(name) for name in model.files},  # mapped: nothing is read to plan the files
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )
    for file, names in shards.filename_to_tensors.items():
        shard = {name: _merge(name, checkpoints, like, combine, tally) for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return tally


def copy_files(source: ModelRef, folder: Path, *, dtype_of: ModelRef) -> None:
    """Copies configuration, tokenizer and chat form of `source`; the number format is that of `dtype_of`."""
    config = json.loads((source.directory / _CONFIG).read_text())
    formats = json.loads((dtype_of.directory / _CONFIG).read_text())
    dtype = formats.get("dtype") or formats.get("torch_dtype")  # transformers 4 called it torch_dtype
    config = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    if dtype:
        config["dtype"] = dtype
    (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    copy_companions(source.directory, folder)


def copy_companions(source: Path, folder: Path) -> None:
    """Copies tokenizer, chat form and generation settings from one model folder to another, byte for byte."""
    for path in {path for pattern in _COPIED for path in source.glob(pattern) if path.is_file()}:
        target = folder / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)


def _merge(name: str, checkpoints: Mapping[str, Checkpoint], like: str, combine: Combine, tally: Tally) -> Tensor:
    target = checkpoints[like].tensor(name)
    tally.num_parameters += target.numel()
    if not target.is_floating_point():
        return _common(name, checkpoints)
    merged = combine(checkpoint.tensor(name).float() for checkpoint in checkpoints.values()).to(target.dtype)
    if not merged.isfinite().all():
        raise ModelError(
            f"the merged tensor {name!r} has values that are not finite in {str(target.dtype).removeprefix('torch.')}",
            "one of the models has such values itself, or the number format is too narrow for the result",
        )
    for role, checkpoint in checkpoints.items():
        tally.add(role, checkpoint.tensor(name).float(), merged.float())
    return merged.contiguous()


def _common(name: str, checkpoints: Mapping[str, Checkpoint]) -> Tensor:
    """Returns a tensor of whole numbers or flags, which is no weight: there is nothing between two of them."""
    first, *others = checkpoints.values()
    tensor = first.tensor(name)
    for other in others:
        if not torch.equal(tensor, other.tensor(name)):
            raise ModelError(
                f"{name!r} holds {str(tensor.dtype).removeprefix('torch.')} values, which cannot be merged, "
                f"and they differ between {first.model.path} and {other.model.path}",
                "merge models of one architecture that started from one checkpoint",
            )
    return tensor


def _squared_norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2
