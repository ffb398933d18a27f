"""Shape of a model, built without its weights, and formulas for the memory of a device during its training."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, PreTrainedModel

from mixcpt.align.scoring import MAX_LOGITS
from mixcpt.config import DpoConfig, PretrainConfig, RuntimeConfig, SelectionConfig, SftConfig, StreamConfig
from mixcpt.distill.buffers import Needs, buffer_bytes
from mixcpt.distill.model import CausalModel
from mixcpt.errors import ModelError
from mixcpt.records.plan import Memory
from mixcpt.store.models import ModelRef, auto_class
from mixcpt.train.costs import multiplied_weights, student_flops_per_token
from mixcpt.train.scope import apply_scope

FP32, BF16 = 4, 2
_MEANS = {"fp32": 8, "int8": 2}
"""Bytes of AdamW's two means per trained parameter."""
_NUM_LOGITS = 3
"""Number of logit matrices that TRL's losses hold at once for a tile: logits, softmax, gradient."""
_TILE_TOKENS, _TILE_VOCAB = 4096, 32768
"""Maximum size of a tile of logits in TRL's losses."""
_NUM_SCORING_LOGITS = 2
"""Number of logit matrices that selection holds for a batch: logits, log-softmax."""
PROCESS_BYTES = {"cpu": 600 * 2**20, "cuda": 0}
"""Memory of a training process before it loads a model. On a CPU it is that of the libraries. On a GPU the recorded
peak is the allocator's, which does not include the CUDA context: see `CUDA_CONTEXT_BYTES`."""
CUDA_CONTEXT_BYTES = 800 * 2**20
"""Device memory of the CUDA context, which tensors cannot use."""
ALIGNMENT_PROCESS_BYTES = {"cpu": 480 * 2**20, "cuda": 0}
"""Memory of a process of SFT or DPO before it loads a model; it reads no mixture and compiles no loss."""
_SMALL_WEIGHTS = 4096
"""Size in elements below which the 8-bit optimizer keeps the means of a tensor in fp32."""

DeviceKind = Literal["cpu", "cuda"]
AlignmentStage = Literal["sft", "dpo"]


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


@dataclass(frozen=True)
class Sharing:
    """Numbers of devices that share the parameters of a model."""

    student: int = 1
    """Number of devices that share the student."""
    teacher: int = 1
    """Number of devices that share the teacher."""

    @classmethod
    def of(cls, runtime: RuntimeConfig, devices_per_host: int) -> "Sharing":
        """Return the sharing of a run; `hybrid` shards the student within a host and the teacher over all devices."""
        if runtime.sharding == "none":
            return cls()
        devices_of_host = min(devices_per_host, runtime.num_processes)
        return cls(
            student=devices_of_host if runtime.sharding == "hybrid" else runtime.num_processes,
            teacher=runtime.num_processes,
        )


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


def pretraining_memory(
    shape: ModelShape,
    activations: ActivationBytes,
    config: PretrainConfig,
    *,
    row_tokens: int,
    student_rows_per_row: float = 1.0,
    sharing: Sharing = Sharing(),
    device: DeviceKind = "cpu",
) -> Memory:
    """Return the peak memory of pre-training per device.

    Weights are kept in fp32: 4 bytes per parameter, 4 of gradient and 8 of AdamW's means per trained parameter.

    Args:
        activations: Activations of one row, in the precision and with the recomputation that `config` sets.
        row_tokens: Length of a row in tokens.
        student_rows_per_row: Ratio of the student's rows to the mixture's; below 1 if the student reads less than the
            teacher.
    """
    rows = max(1.0, config.micro_batch_rows * student_rows_per_row)
    return Memory(
        stage="pretrained",
        parameters=shape.num_parameters * FP32 // sharing.student,
        gradients=shape.num_trained * FP32 // sharing.student,
        optimizer=optimizer_bytes(shape, config.optimizer.state) // sharing.student,
        teacher=_teacher_bytes(shape, config) // sharing.teacher,
        activations=round(rows * (activations.saved + activations.largest)) + activations.copies,
        head=_head_bytes(shape, config, round(rows * row_tokens), device=device),
        process=PROCESS_BYTES[device],
    )


def alignment_memory(
    stage: AlignmentStage,
    shape: ModelShape,
    activations: ActivationBytes,
    config: SftConfig | DpoConfig,
    *,
    longest_tokens: int,
    row_tokens: int,
    scored_tokens: int = 0,
    num_processes: int = 1,
    sharing: Sharing = Sharing(),
    device: DeviceKind = "cpu",
) -> Memory:
    """Return the peak memory of SFT or DPO per device. The loss computes logits in tiles, and DPO has no second model.

    Args:
        stage: Name of the stage; DPO reads two answers per sample.
        shape: Shape of the model in the scope of the stage.
        activations: Activations of a row of `row_tokens` tokens, in the precision and with the recomputation of the
            stage.
        longest_tokens: Length to which a batch is padded.
        row_tokens: Length of the rows of `activations`.
        scored_tokens: Tokens of the candidates that selection scores before in the same process.
        num_processes: Number of processes that share a batch.
    """
    sequences = -(-config.batch_size * (2 if stage == "dpo" else 1) // num_processes)
    rows = sequences * longest_tokens / row_tokens
    tile = min(sequences * longest_tokens, _TILE_TOKENS) * min(shape.vocab, _TILE_VOCAB)
    head_gradient = shape.vocab * shape.hidden * FP32 if shape.head_is_trained else 0
    is_narrow = config.precision == "bf16" and config.scope.kind == "lora" and device == "cuda" and sharing.student == 1
    frozen = (shape.num_parameters - shape.num_trained) * (BF16 if is_narrow else FP32)
    return Memory(
        stage=stage,
        parameters=(frozen + shape.num_trained * FP32) // sharing.student,
        gradients=shape.num_trained * FP32 // sharing.student,
        optimizer=optimizer_bytes(shape, config.optimizer.state) // sharing.student,
        teacher=0,
        activations=round(rows * (activations.saved + activations.largest)) + (0 if is_narrow else activations.copies),
        head=max(_NUM_LOGITS * tile * FP32 + head_gradient, _scoring_bytes(scored_tokens, longest_tokens, shape.vocab)),
        process=ALIGNMENT_PROCESS_BYTES[device],
    )


def selection_memory(
    shape: ModelShape, config: SelectionConfig, *, longest_tokens: int, scored_tokens: int, device: DeviceKind = "cpu"
) -> Memory:
    """Return the peak memory of the scoring of candidates: the weights and the logits of one batch."""
    width = BF16 if config.precision == "bf16" and device == "cuda" else FP32
    return Memory(
        stage="selection",
        parameters=shape.num_base * width,
        gradients=0,
        optimizer=0,
        teacher=0,
        activations=0,
        head=_scoring_bytes(scored_tokens, longest_tokens, shape.vocab),
        process=ALIGNMENT_PROCESS_BYTES[device],
    )


def _scoring_bytes(scored_tokens: int, longest_tokens: int, vocab: int) -> int:
    """Return the bytes of the logits of one batch of candidates, which has at least one whole sample."""
    return _NUM_SCORING_LOGITS * FP32 * min(scored_tokens * vocab, max(MAX_LOGITS, longest_tokens * vocab))


def optimizer_bytes(shape: ModelShape, state: Literal["fp32", "int8"]) -> int:
    """Return the bytes of AdamW's means: 8 per trained parameter; 2 with int8, except embeddings and small tensors."""
    narrow = shape.num_narrow if state == "int8" else 0
    return narrow * _MEANS["int8"] + (shape.num_trained - narrow) * _MEANS["fp32"]


def teacher_runs(config: PretrainConfig) -> bool:
    """Return whether a teacher computes predictions during the training."""
    return config.teacher.kind != "cached" and any(stream.kl_weight > 0 for stream in config.method.streams())


def _teacher_bytes(shape: ModelShape, config: PretrainConfig) -> int:
    if config.teacher.kind != "frozen" or not teacher_runs(config):
        return 0
    return shape.num_base * (BF16 if config.precision == "bf16" else FP32)


def _head_bytes(shape: ModelShape, config: PretrainConfig, tokens: int, *, device: DeviceKind) -> int:
    """Return the bytes of loss chunks + hidden states' gradient + teacher's hidden states + gradient of the head."""
    width = BF16 if config.precision == "bf16" else FP32
    copies = BF16 if config.precision == "bf16" else 0
    chunks = max(
        buffer_bytes(tokens, shape.vocab, Needs(*_matrices(config, stream, device), copies), device_type=device)
        for stream in config.method.streams()
    )
    hidden_states = tokens * shape.hidden * width
    teacher_states = hidden_states if teacher_runs(config) else 0
    head_gradient = shape.vocab * shape.hidden * FP32 if shape.head_is_trained else 0
    return chunks + hidden_states + teacher_states + head_gradient


def _matrices(config: PretrainConfig, stream: StreamConfig, device: DeviceKind) -> tuple[int, int]:
    """Return the numbers of logit matrices and of spare matrices that a chunk of a stream needs."""
    if not stream.needs_teacher or config.teacher.kind == "cached":
        return 1, 0
    return 2, 0 if device == "cuda" else 1


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
            model: PreTrainedModel = auto_class(config).from_config(config, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the model of {base.path} cannot be built from its configuration: {error}") from error
    model.config.use_cache = False
    return model
