"""Writes a merged model: one shard in memory at a time, computed in fp32, in the number format of one of the models."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import save_file
from torch import Tensor

from mixcpt.errors import ModelError
from mixcpt.merge.checkpoint import INDEX, Checkpoint
from mixcpt.store.models import ModelRef

Combine = Callable[[Iterator[Tensor]], Tensor]
"""Function that merges one fp32 tensor of every model, in the order of the models; must not change its inputs."""

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
    "*processor_config.json",
    "additional_chat_templates/*.jinja",
)
"""Files of a model besides weights and configuration, without cards and recipes, which describe another model."""


@dataclass
class ChangeNorms:
    """Norms of a merge's change from every input model, summed up tensor by tensor."""

    num_parameters: int = 0
    squared_change: dict[str, float] = field(default_factory=dict)
    """Squared L2 norm of merged - model, by the model's role."""
    squared_norm: dict[str, float] = field(default_factory=dict)
    """Squared L2 norm of the model, by its role."""

    def add(self, role: str, tensor: Tensor, merged: Tensor) -> None:
        self.squared_change[role] = self.squared_change.get(role, 0.0) + _squared_norm(merged - tensor)
        self.squared_norm[role] = self.squared_norm.get(role, 0.0) + _squared_norm(tensor)

    @property
    def change_norm(self) -> dict[str, float]:
        """L2 norm of merged - model over all weights, by role."""
        return {role: math.sqrt(square) for role, square in self.squared_change.items()}

    @property
    def relative_change(self) -> dict[str, float]:
        """The change as a fraction of the model's own norm, by role."""
        norms = {role: math.sqrt(square) for role, square in self.squared_norm.items()}
        return {role: change / norms[role] if norms[role] else 0.0 for role, change in self.change_norm.items()}


def write_weights(
    folder: Path, checkpoints: Mapping[str, Checkpoint], dtype_of: str, *, combine: Combine, max_shard_bytes: int
) -> ChangeNorms:
    """Write the merged tensors into `folder`, as one safetensors file or as shards with their index.

    Args:
        checkpoints: Models with the same tensors, by role.
        dtype_of: Role of the model whose number formats the result has.
        max_shard_bytes: Size limit of a file; one shard at a time is held in memory.

    Raises:
        ModelError: If an integer or boolean tensor differs between the models, or a result is not finite.
    """
    norms = ChangeNorms()
    model = checkpoints[dtype_of]
    shards = split_state_dict_into_shards_factory(
        {name: model.tensor(name) for name in model.files},  # memory-mapped: planning the files reads no values
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )
    for file, names in shards.filename_to_tensors.items():
        shard = {name: _merge(name, checkpoints, dtype_of, combine=combine, norms=norms) for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return norms


def copy_files(source: ModelRef, folder: Path, *, dtype_of: ModelRef) -> None:
    """Copy configuration, tokenizer and chat form of `source`, with the number format of `dtype_of`."""
    config = json.loads((source.directory / _CONFIG).read_text())
    dtype_config = json.loads((dtype_of.directory / _CONFIG).read_text())
    dtype = dtype_config.get("dtype") or dtype_config.get("torch_dtype")  # torch_dtype is the key of transformers 4
    config = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    config |= {"dtype": dtype} if dtype else {}
    (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    copy_companions(source.directory, folder)


def copy_companions(source: Path, folder: Path) -> None:
    """Copy tokenizer, chat form and generation settings from one model folder to another, byte for byte."""
    paths = set(chain.from_iterable(source.glob(pattern) for pattern in _COPIED))  # patterns overlap
    for path in filter(Path.is_file, paths):
        target = folder / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)


def _merge(
    name: str, checkpoints: Mapping[str, Checkpoint], dtype_of: str, *, combine: Combine, norms: ChangeNorms
) -> Tensor:
    target = checkpoints[dtype_of].tensor(name)
    norms.num_parameters += target.numel()
    if not target.is_floating_point():
        return _common(name, checkpoints)
    merged = combine(checkpoint.tensor(name).float() for checkpoint in checkpoints.values()).to(target.dtype)
    if not merged.isfinite().all():
        raise ModelError(
            f"the merged tensor {name!r} has values that are not finite in {str(target.dtype).removeprefix('torch.')}",
            "one of the models has such values already, or the number format is too narrow for the result",
        )
    for role, checkpoint in checkpoints.items():
        norms.add(role, checkpoint.tensor(name).float(), merged.float())
    return merged.contiguous()


def _common(name: str, checkpoints: Mapping[str, Checkpoint]) -> Tensor:
    """Return an integer or boolean tensor, which cannot be merged and must be equal in all models."""
    first, *others = checkpoints.values()
    tensor = first.tensor(name)
    for other in others:
        if not torch.equal(tensor, other.tensor(name)):
            raise ModelError(
                f"{name!r} has {str(tensor.dtype).removeprefix('torch.')} values, which cannot be merged, "
                f"and they differ between {first.model.path} and {other.model.path}",
                "merge models of one architecture that started from one checkpoint",
            )
    return tensor


def _squared_norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2
