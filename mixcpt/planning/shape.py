"""A model without its weights: how many there are, which are trained, and what a forward keeps for its backward."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mixcpt.config import PretrainConfig
from mixcpt.distill.head import CausalModel
from mixcpt.errors import ModelError
from mixcpt.store.models import ModelRef
from mixcpt.train.costs import multiplied_weights, student_flops_per_token
from mixcpt.train.scope import apply_scope

_SMALL_WEIGHTS = 4096
"""The 8-bit optimiser keeps the means of smaller tensors in fp32."""


@dataclass(frozen=True)
class ModelShape:
    """What costs follow from."""

    num_parameters: int
    num_trained: int
    num_base: int
    """Parameters of the base model: of a teacher, and of what is published."""
    num_narrow: int
    """Trained parameters whose means an 8-bit optimiser keeps in 8 bits: no embeddings, nothing small."""
    flops_per_token: int
    """Of the student, forward and backward, with recomputed activations where these are asked for."""
    multiplied: int
    """Weights that a token is multiplied with; twice that many operations are a forward."""
    vocab: int
    hidden: int
    num_layers: int
    head_is_trained: bool
    head_is_embedding: bool


@dataclass(frozen=True)
class ActivationBytes:
    """What one row needs on its way through the model, in bytes."""

    saved: int
    """Kept from the forward for the backward."""
    largest: int
    """The largest single one, beside which the backward holds its gradients."""
    copies: int = 0
    """Of the weights in the narrower type of the products; once, however many rows there are."""


def model_shape(base: ModelRef, config: PretrainConfig, *, seed: int = 0) -> ModelShape:
    """Returns the shape of the student that a training makes of `base`; reads its configuration and no weights."""
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
        head_is_embedding=id(head) in embeddings,
    )


def activation_bytes(base: ModelRef, config: PretrainConfig, row_tokens: int) -> ActivationBytes:
    """Returns what a row of so many tokens needs; the forward runs on tensors that have shapes and no content."""
    student = apply_scope(_without_weights(base), config.scope, seed=0).train()
    saved = _saved(student, row_tokens, bf16=config.precision == "bf16")
    if not config.gradient_checkpointing:
        return saved
    settings = student.config.get_text_config()
    borders = settings.num_hidden_layers * row_tokens * settings.hidden_size * torch.float32.itemsize
    return replace(saved, saved=borders + saved.saved // settings.num_hidden_layers)


def _saved(student: CausalModel, row_tokens: int, *, bf16: bool) -> ActivationBytes:
    """Returns the storages that autograd keeps, each once, without the parameters' own."""
    own = {weight.untyped_storage()._cdata for weight in student.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    ids = torch.zeros(1, row_tokens, dtype=torch.long, device="meta")
    mask = torch.ones(1, 1, row_tokens, row_tokens, dtype=torch.bool, device="meta")  # packed rows have one
    positions = torch.arange(row_tokens, device="meta").unsqueeze(0)
    with _AsOnDevice(bf16) as narrowing, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        student.get_decoder()(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    copies = [kept.pop(storage).nbytes() for storage in narrowing.copies if storage in kept]
    sizes = [storage.nbytes() for storage in kept.values()]
    return ActivationBytes(sum(sizes), max(sizes, default=0), sum(copies))


class _AsOnDevice(TorchFunctionMode):
    """Makes tensors without content keep what real ones would: fused attention has no matrix of scores, and autocast,
    which leaves them alone, narrows the inputs of matrix products."""

    def __init__(self, bf16: bool) -> None:
        super().__init__()
        self.copies: set[int] = set()
        """Storages of weights in the narrower type."""
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
    """Keeps its inputs, its output, the normalisers, and the mask as numbers."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        normalisers = query.new_empty(query.shape[:-1], dtype=torch.float32)
        numbers = None if mask is None else query.new_empty(mask.shape)
        ctx.save_for_backward(query, key, value, output, normalisers, numbers)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise NotImplementedError("this attention has no content to differentiate")


def _without_weights(base: ModelRef) -> PreTrainedModel:
    with torch.device("meta"):
        return _built(base)


def _built(base: ModelRef) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(base.path, trust_remote_code=False)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the model of {base.path} cannot be built from its configuration: {error}") from error
    model.config.use_cache = False
    return model
