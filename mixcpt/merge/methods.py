"""The merges: interpolation, instruct residual, average. Each takes models and publishes a model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from mixcpt.config import AverageConfig, InterpolateConfig, ResidualConfig
from mixcpt.errors import ModelError
from mixcpt.merge.checkpoint import open_checkpoint
from mixcpt.merge.compatible import require_mergeable
from mixcpt.merge.writing import Combine, copy_files, write_weights
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, Metrics, StageKey
from mixcpt.store.models import ModelRef

_VERSION = 1


def interpolate(
    config: InterpolateConfig, base: ModelRef, tuned: ModelRef, *, store: ArtifactStore, name: str = ""
) -> ArtifactRef:
    """Returns (1 - weight) * base + weight * tuned, in the number format of the base.

    WiSE-FT, arXiv 2109.01903: between a model and its fine-tuned self, much of what was learned is there while little
    of the rest is lost. At weight 0 and 1 the tensors are the very ones of base and tuned.

    Raises:
        ModelError: If the two cannot be merged; it names the first difference.
    """

    def combine(tensors: Iterator[Tensor]) -> Tensor:
        start, end = tensors
        return torch.lerp(start, end, config.weight)  # exact at both ends, and where the two are equal

    merge = _Merge(config, {"base": base, "tuned": tuned}, "base", config.files_of, combine)
    return _produce(merge, store, name)


def residual(
    config: ResidualConfig,
    adapted: ModelRef,
    instruct: ModelRef,
    base: ModelRef,
    *,
    store: ArtifactStore,
    name: str = "",
) -> ArtifactRef:
    """Returns adapted + scale * (instruct - base), with the chat form of `instruct`, in the number format of the base.

    Task arithmetic, arXiv 2212.04089: what instruction tuning changed is a vector that can be added to another model
    that started from the same base, here one that was pre-trained on documents.

    Raises:
        ModelError: If the three cannot be merged; it names the first difference.
    """

    def combine(tensors: Iterator[Tensor]) -> Tensor:
        start, plus, minus = tensors
        return start + config.scale * (plus - minus)

    models = {"adapted": adapted, "instruct": instruct, "base": base}
    return _produce(_Merge(config, models, "base", "instruct", combine), store, name)


def average(config: AverageConfig, *models: ModelRef, store: ArtifactStore, name: str = "") -> ArtifactRef:
    """Returns the mean of the models, with the number format, configuration and tokenizer of the first.

    Model soups, arXiv 2203.05482: models that started from one checkpoint, or several checkpoints of one training.

    Raises:
        ModelError: If there are fewer than two, or they cannot be merged; it names the first difference.
    """
    if len(models) < 2:
        raise ModelError(f"an average needs two models or more, and {len(models)} was given", "name another one")

    def combine(tensors: Iterator[Tensor]) -> Tensor:
        return reduce(torch.add, tensors) / len(models)

    roles = {f"model-{number}": model for number, model in enumerate(models, start=1)}
    return _produce(_Merge(config, roles, "model-1", "model-1", combine), store, name)


@dataclass(frozen=True)
class _Merge:
    """All that decides the result of a merge."""

    config: InterpolateConfig | ResidualConfig | AverageConfig
    models: Mapping[str, ModelRef]
    """By role, in the order in which `combine` takes their tensors."""
    dtype_of: str
    """The role of the model whose number format the result has."""
    files_of: str
    """The role of the model whose configuration, tokenizer and chat template the result has."""
    combine: Combine

    @property
    def key(self) -> StageKey:
        digests = {role: model.digest for role, model in self.models.items()}
        return StageKey("model", _VERSION, {"stage": "merge", "config": self.config}, digests)


def _produce(merge: _Merge, store: ArtifactStore, name: str) -> ArtifactRef:
    models = merge.models

    def build(folder: Path) -> Metrics:
        checkpoints = {role: open_checkpoint(model) for role, model in models.items()}
        require_mergeable(list(checkpoints.values()))
        target = folder / "model"
        target.mkdir()
        copy_files(models[merge.files_of], target, dtype_of=models[merge.dtype_of])
        tally = write_weights(target, checkpoints, merge.dtype_of, merge.combine, merge.config.max_shard_bytes)
        return {
            "method": merge.config.kind,
            "num_parameters": tally.num_parameters,
            "change_norm": tally.change_norm,
            "relative_change": tally.relative_change,
        }

    lineage = {"name": name, "models": {role: model.to_json() for role, model in models.items()}}
    return store.produce(merge.key, build, lineage=lineage)
