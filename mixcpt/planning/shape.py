"""Shape of a model without its weights: numbers of parameters, and the tensors that a forward pass keeps."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mixcpt.config import PretrainConfig
from mixcpt.distill.model import CausalModel
from mixcpt.errors import ModelError
from mixcpt.store.models import ModelRef
from mixcpt.train.costs import multiplied_weights, student_flops_per_token
from mixcpt.train.scope import apply_scope

_SMALL_WEIGHTS = 4096
"""Size in elements below which the 8-bit optimizer keeps the means of a tensor in fp32."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Numbers that determine memory and operations of a model."""

    num_parameters: int
    """Number of parameters, with adapters."""
    num_trained: int
    """Number of trained parameters."""
    num_base: int
    """Number of parameters of the base model, and so of a teacher and of the published model."""
    num_narrow: int
    """Number of trained parameters whose means an 8-bit optimizer keeps in 8 bits: no embeddings, no small tensors."""
    flops_per_token: int
    """Operations of the student per token, forward and backward, with recomputed activations if the settings ask for
    them."""
    multiplied: int
    """Number of weights that a token is multiplied with; a forward pass takes two operations per weight."""
    vocab: int
    hidden: int
    """Size of the hidden states."""
    num_layers: int
    head_is_trained: bool
    """Whether the output embedding is trained."""


@dataclass(frozen=True)
class ActivationBytes:
    """Memory of one row in a forward and backward pass, in bytes."""

    saved: int
    """Tensors kept from the forward pass for the backward pass."""
    largest: int
    """Largest of these tensors; the backward pass holds gradients of this size."""
    copies: int = 0
    """Copies of the weights in bf16; independent of the number of rows."""


def model_shape(base: ModelRef, config: PretrainConfig, *, seed: int = 0) -> ModelShape:
    """Return the shape of the student of a training; reads the configuration of the base model, not its weights."""
    plain = _without_weights(base)
    num_base = sum(weight.numel() for weight in plain.parameters())
    student = apply_scope(plain, config.scope, seed=seed)
    trained = [weight for weight in student.parameters() if weight.requires_grad]
    embeddings = {id(weight) for weight in student.get_input_embeddings().parameters()}
    head = student.get_output_embeddings().weight
    settings = student.config.get_text_config()
    return ModelShape(
        num_parameters=sum(weight.numel() for weight in student.parameters()),
        num_trained=sum(weight.numel() for weight in trained),
        num_base=num_base,
        num_narrow=sum(w.numel() for w in trained if w.numel() >= _SMALL_WEIGHTS and id(w) not in embeddings),
        flops_per_token=student_flops_per_token(student, recompute=config.gradient_checkpointing),
        multiplied=multiplied_weights(student),
        vocab=head.shape[0],
        hidden=head.shape[1],
        num_layers=settings.num_hidden_layers,
        head_is_trained=head.requires_grad,
    )


def activation_bytes(base: ModelRef, config: PretrainConfig, row_tokens: int) -> ActivationBytes:
    """Return the activations of a row of this length, from a forward pass on tensors without data."""
    student = apply_scope(_without_weights(base), config.scope, seed=0).train()
    saved = _saved(student, row_tokens, bf16=config.precision == "bf16")
    if not config.gradient_checkpointing:
        return saved
    settings = student.config.get_text_config()
    # recomputation keeps the input of every layer, and all tensors of one layer at a time
    layer_inputs = settings.num_hidden_layers * row_tokens * settings.hidden_size * torch.float32.itemsize
    return replace(saved, saved=layer_inputs + saved.saved // settings.num_hidden_layers)


def _saved(student: CausalModel, row_tokens: int, *, bf16: bool) -> ActivationBytes:
    """Return the sizes of the storages that autograd keeps, except the parameters."""
    parameters = {weight.untyped_storage()._cdata for weight in student.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage
        return tensor

    ids = torch.zeros(1, row_tokens, dtype=torch.long, device="meta")
    mask = torch.ones(1, 1, row_tokens, row_tokens, dtype=torch.bool, device="meta")  # as packed rows have
    positions = torch.arange(row_tokens, device="meta").unsqueeze(0)
    with _LikeRealTensors(bf16) as narrowing, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        student.get_decoder()(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    copies = [kept.pop(storage).nbytes() for storage in narrowing.copies if storage in kept]
    sizes = [storage.nbytes() for storage in kept.values()]
    return ActivationBytes(saved=sum(sizes), largest=max(sizes, default=0), copies=sum(copies))


class _LikeRealTensors(TorchFunctionMode):
    """Makes tensors without data keep the same storages as real tensors.

    Fused attention keeps no matrix of scores. Autocast, which ignores tensors without data, converts the inputs of
    matrix products to bf16.
    """

    def __init__(self, bf16: bool) -> None:
        super().__init__()
        self.copies: set[int] = set()
        """Storages of the weights in bf16."""
        self._bf16 = bf16

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            query, key, value = args[:3]
            return _FusedAttention.apply(query, key, value, (kwargs or {}).get("attn_mask"))
        if self._bf16 and func in (functional.linear, torch.matmul, Tensor.matmul):
            args = tuple(self._narrow(value) for value in args)
        return func(*args, **(kwargs or {}))

    def _narrow(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        narrow = value.to(torch.bfloat16)
        if isinstance(value, nn.Parameter):
            self.copies.add(narrow.untyped_storage()._cdata)
        return narrow


class _FusedAttention(torch.autograd.Function):
    """Keeps its inputs, its output, the softmax normalizers, and the mask as numbers."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        normalizers = query.new_empty(query.shape[:-1], dtype=torch.float32)
        numbers = None if mask is None else query.new_empty(mask.shape)
        ctx.save_for_backward(query, key, value, output, normalizers, numbers)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise NotImplementedError("tensors without data have no gradient")


def _without_weights(base: ModelRef) -> PreTrainedModel:
    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(base.path, trust_remote_code=False)
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the model of {base.path} cannot be built from its configuration: {error}") from error
    model.config.use_cache = False
    return model
