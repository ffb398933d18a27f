"""Selects the trained parameters: all of them, or low-rank adapters and some whole modules."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, groupby

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from mixcpt.config import LoraScopeConfig, Scope
from mixcpt.distill.model import CausalModel, decoder_of, transform_of
from mixcpt.errors import ModelError
from mixcpt.train.reach import freeze_unreached, is_expert, kind_of, listed

_MAMBA_FAMILIES = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}
_MAMBA_LAYERS = ("out_proj", "conv1d")
"""Families and layers that peft refuses, because the fast kernels read their weight without calling them."""


def apply_scope(model: PreTrainedModel, scope: Scope, *, seed: int) -> CausalModel:
    """Add adapters to the model if the scope needs them, and return the model; only parameters in scope are trained.

    Only the text part of a vision-language model is in scope; the rest is frozen.

    LoRA (arXiv 2106.09685) adapts fused experts and every linear layer except the head and routers. Modules trained as
    a whole are trained in a copy, so `adapter_off` can restore the base model.

    `seed` draws one half of the adapters; the other half is zero, so training starts at the base model.

    Raises:
        ModelError: If the model lacks modules that the scope names (a head separate from the embeddings, normalisation
            weights), or if adapters do not support the settings (dropout on fused experts).
    """
    other_parts = freeze_other_parts(model)
    if scope.kind == "full":
        freeze_unreached(model)
        return model
    _require_separable(model, scope)
    config = LoraConfig(
        r=scope.rank,
        lora_alpha=scope.alpha,
        lora_dropout=scope.dropout,
        target_modules="all-linear",
        modules_to_save=_whole_modules(model, scope) or None,
        exclude_modules=[*other_parts, *_unadaptable(model)] or None,
        task_type="CAUSAL_LM",
    )
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            adapted: PeftModel = get_peft_model(model, config)
            if fused := _fused_parameters(adapted):
                plain = adapted.unload()
                torch.manual_seed(seed)
                adapted = get_peft_model(plain, replace(config, target_parameters=fused))
    except ValueError as error:
        raise ModelError(
            f"adapters with these settings do not fit {type(model).__name__}: {error}",
            "set pretrain.scope.dropout to 0, or pretrain.scope to full",
        ) from error
    freeze_unreached(adapted)
    return adapted


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Make the model exactly its base model within the context: no adapters, no copies, no dropout."""
    if not isinstance(model, PeftModel):
        raise ModelError("there are no adapters to switch off", "set pretrain.scope to lora")
    training, frozen = model.training, [weight for weight in model.parameters() if not weight.requires_grad]
    model.eval()
    try:
        with model.disable_adapter():
            yield
    finally:
        model.train(training)
        for weight in frozen:  # peft makes every adapter trainable again
            weight.requires_grad_(False)


def merged(model: CausalModel) -> PreTrainedModel:
    """Merge adapters and trained copies into the model's own weights, and return the plain model."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def scope_summary(model: nn.Module) -> str:
    """Return a text about the trained parameters: their number, then every kind of parameter with its shapes."""
    parameters = list(model.named_parameters())
    trained = [(_kind(name), tuple(weight.shape)) for name, weight in parameters if weight.requires_grad]
    count = sum(weight.numel() for _, weight in parameters if weight.requires_grad)
    total = sum(weight.numel() for _, weight in parameters)
    lines = [f"training {count:,} of {total:,} parameters ({count / total:.2%})"]
    for (kind, shape), group in groupby(sorted(trained)):
        lines.append(f"  {len(list(group)):4} x {kind} {'x'.join(map(str, shape))}")
    if kinds := not_adapted(model):
        lines.append(f"  without adapters: {listed(kinds)}")
    return "\n".join(lines)


def not_adapted(model: nn.Module) -> list[str]:
    """Return the kinds of matrices of the decoder that LoRA neither adapts nor trains; none without adapters.

    They are routers, layers whose weight is read without calling them, and experts that peft cannot adapt.
    """
    if not isinstance(model, PeftModel):
        return []
    adapted = {_matrix(name) for name, weight in model.named_parameters() if weight.requires_grad}
    decoder = {id(weight) for weight in decoder_of(model).parameters()}
    embeddings = {id(weight) for weight in model.get_input_embeddings().parameters()}
    matrices = [
        (_matrix(name), weight)
        for name, weight in model.named_parameters()
        if weight.ndim > 1 and "lora_" not in name and id(weight) in decoder and id(weight) not in embeddings
    ]
    kinds = {kind: _owner(kind) if weight.ndim == 3 else kind for kind, weight in matrices}
    return [kind for kind, adapter in kinds.items() if adapter not in adapted]


def _matrix(name: str) -> str:
    """Return the kind of a matrix, which is also that of its adapters."""
    return kind_of(name).replace(".base_layer", "")


def _owner(kind: str) -> str:
    """Return the name that adapters of fused experts have: the module's, for all its parameters."""
    return kind.rpartition(".")[0] + ".weight"


def check_gradients(model: nn.Module) -> None:
    """Raise `ModelError` if a parameter in scope has no gradient after a backward pass: it would stay unchanged.

    An expert without a gradient had no token in the batch.
    """
    parameters = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    missing = [name for name, weight in parameters if weight.grad is None and not is_expert(name)]
    if missing:
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ModelError(f"{len(missing)} parameters in scope get no gradient: {names}", "leave them out of the scope")


def freeze_other_parts(model: PreTrainedModel) -> list[str]:
    """Freeze all parts but the decoder and both ends of the vocabulary; return the names of their linear layers."""
    decoder = decoder_of(model)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    parts = [part for part in (decoder, transform_of(model), *ends) if part is not None]
    text = {id(module) for module in chain.from_iterable(part.modules() for part in parts)}
    kept = {id(weight) for weight in chain.from_iterable(part.parameters() for part in parts)}
    for weight in model.parameters():
        if id(weight) not in kept:
            weight.requires_grad_(False)
    modules = model.named_modules()
    return [
        name
        for name, module in modules
        if isinstance(module, nn.Linear) and id(module) not in text and not any(module is end for end in ends)
    ]


def _unadaptable(model: PreTrainedModel) -> list[str]:
    """Return the names of layers that are no plain products, and layers of Mamba whose weight its kernels read.

    The first are routers that return several values (Phi MoE) and grouped projections (DeepSeek 4).
    """
    is_mamba = model.config.get_text_config().model_type in _MAMBA_FAMILIES
    return [
        name
        for name, module in model.named_modules()
        if _is_special(module) or (is_mamba and name.endswith(_MAMBA_LAYERS))
    ]


def _is_special(module: nn.Module) -> bool:
    """Return whether a linear layer returns anything but its product."""
    name = type(module).__name__.lower()
    return isinstance(module, nn.Linear) and type(module) is not nn.Linear and ("router" in name or "grouped" in name)


def _fused_parameters(model: PeftModel) -> list[str]:
    """Return the parameters of fused experts that have no adapter, by the last two parts of their names."""
    names = [name for name, weight in model.named_parameters() if weight.ndim == 3 and "experts" in name]
    plain = [name for name in names if "base_layer" not in name and "lora_" not in name]
    return sorted({".".join(name.split(".")[-2:]) for name in plain})


def _require_separable(model: PreTrainedModel, scope: LoraScopeConfig) -> None:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding.weight is head.weight and (scope.train_head or scope.train_embeddings):
        raise ModelError(
            f"the head of {type(model).__name__} is its embedding table, and LoRA cannot train only one of the two",
            "set pretrain.scope.train_head and train_embeddings to false, or pretrain.scope to full",
        )


def _whole_modules(model: PreTrainedModel, scope: LoraScopeConfig) -> list[str]:
    """Return the names of the modules that are trained as a whole."""
    names = {module: name for name, module in model.named_modules()}
    embeddings = [model.get_input_embeddings()] if scope.train_embeddings else []
    head = [model.get_output_embeddings()] if scope.train_head else []
    norms = _norms(model) if scope.train_norms else []
    return [names[module] for module in (*embeddings, *head, *norms)]


def _norms(model: PreTrainedModel) -> list[nn.Module]:
    """Return the normalisation layers with weights, identified by class name: in GPT-2 they are named `ln_1`."""
    norms = [
        module
        for module in model.modules()
        if "norm" in type(module).__name__.lower() and next(module.parameters(recurse=False), None) is not None
    ]
    if not norms:
        raise ModelError(
            f"{type(model).__name__} has no normalisation weights", "set pretrain.scope.train_norms to false"
        )
    return norms


def _kind(name: str) -> str:
    """Return a parameter's name without the number of its layer."""
    return ".".join(part for part in name.split(".") if not part.isdigit())
