"""The merge methods: interpolation, instruct residual and average. Each one merges models and publishes the result."""

from collections.abc import Iterator, Mapping
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
    """Publish (1 - weight) * base + weight * tuned, in the number format of the base.

    WiSE-FT, arXiv 2109.01903: between a model and its fine-tuned version, much of the learned skill is present and
    little of the rest is lost. At weight 0 and 1 the tensors are exactly the base's and the tuned model's.

    Raises:
        ModelError: If the two cannot be merged; it names the first difference.
    """

    def combine(tensors: Iterator[Tensor]) -> Tensor:
        start, end = tensors
        return torch.lerp(start, end, config.weight)  # exact at both ends, and for equal tensors

    models = {"base": base, "tuned": tuned}
    return _produce(config, models, combine, dtype_of="base", files_of=config.files_of, store=store, name=name)


def residual(
    config: ResidualConfig,
    adapted: ModelRef,
    instruct: ModelRef,
    base: ModelRef,
    *,
    store: ArtifactStore,
    name: str = "",
) -> ArtifactRef:
    """Publish adapted + scale * (instruct - base), with the chat form of `instruct`, in the number format of the base.

    Task arithmetic, arXiv 2212.04089: the change by instruction tuning is a vector that can be added to another model
    from the same base, here to one that was pre-trained on documents.

    Raises:
        ModelError: If the three cannot be merged; it names the first difference.
    """

    def combine(tensors: Iterator[Tensor]) -> Tensor:
        start, plus, minus = tensors
        return start + config.scale * (plus - minus)

    models = {"adapted": adapted, "instruct": instruct, "base": base}
    return _produce(config, models, combine, dtype_of="base", files_of="instruct", store=store, name=name)


def average(config: AverageConfig, *models: ModelRef, store: ArtifactStore, name: str = "") -> ArtifactRef:
    """Publish the mean of the models, with the number format, configuration and tokenizer of the first.

    Model soups, arXiv 2203.05482: models that started from one checkpoint, or several checkpoints of one training.

    Raises:
        ModelError: If there are fewer than two, or they cannot be merged; it names the first difference.
    """
    if len(models) < 2:
        raise ModelError(f"an average needs at least two models, but there is {len(models)}", "name another one")

    def combine(tensors: Iterator[Tensor]) -> Tensor:
        return reduce(torch.add, tensors) / len(models)

    named = {f"model-{number}": model for number, model in enumerate(models, start=1)}
    return _produce(config, named, combine, dtype_of="model-1", files_of="model-1", store=store, name=name)


def _produce(
    config: InterpolateConfig | ResidualConfig | AverageConfig,
    models: Mapping[str, ModelRef],
    combine: Combine,
    *,
    dtype_of: str,
    files_of: str,
    store: ArtifactStore,
    name: str,
) -> ArtifactRef:
    """Merge models and publish the result.

    Args:
        models: Models by role, in the order in which `combine` takes their tensors.
        dtype_of: Role of the model whose number format the result has.
        files_of: Role of the model whose configuration, tokenizer and chat template the result has.
    """

    def build(folder: Path) -> Metrics:
        checkpoints = {role: open_checkpoint(model) for role, model in models.items()}
        require_mergeable(list(checkpoints.values()))
        target = folder / "model"
        target.mkdir()
        copy_files(models[files_of], target, dtype_of=models[dtype_of])
        norms = write_weights(target, checkpoints, dtype_of, combine=combine, max_shard_bytes=config.max_shard_bytes)
        return {
            "method": config.kind,
            "num_parameters": norms.num_parameters,
            "change_norm": norms.change_norm,
            "relative_change": norms.relative_change,
        }

    settings = {"stage": "merge", "config": config}
    key = StageKey("model", _VERSION, settings, {role: model.digest for role, model in models.items()})
    lineage = {"name": name, "models": {role: model.to_json() for role, model in models.items()}}
    return store.produce(key, build, lineage=lineage)
