"""Formulas for the memory of a device during training, from the shape of the model; small enough to check by hand."""

from dataclasses import dataclass
from typing import Literal

from mixcpt.align.scoring import MAX_LOGITS
from mixcpt.config import DpoConfig, PretrainConfig, RuntimeConfig, SftConfig, StreamConfig
from mixcpt.distill.buffers import Needs, buffer_bytes
from mixcpt.planning.shape import ActivationBytes, ModelShape
from mixcpt.records.plan import Memory

FP32, BF16 = 4, 2
_MEANS = {"fp32": 8, "int8": 2}
"""Bytes of AdamW's two means per trained parameter."""
_NUM_LOGITS = 3
"""Number of full logit matrices that TRL's losses hold at once: logits, softmax, gradient."""
_NUM_SCORING_LOGITS = 2
"""Number of logit matrices that selection holds for a batch: logits, log-softmax."""
PROCESS_BYTES = {"cpu": 600 * 2**20, "cuda": 0}
"""Memory of a training process before it loads a model. On a CPU it is that of the libraries. On a GPU the recorded
peak is the allocator's, which does not include the CUDA context: see `CUDA_CONTEXT_BYTES`."""
CUDA_CONTEXT_BYTES = 800 * 2**20
"""Device memory of the CUDA context, which tensors cannot use."""
ALIGNMENT_PROCESS_BYTES = {"cpu": 480 * 2**20, "cuda": 0}
"""Memory of a process of SFT or DPO before it loads a model; it reads no mixture and compiles no loss."""

DeviceKind = Literal["cpu", "cuda"]


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
        shape: Shape of the student.
        activations: Activations of one row, in the precision and with the recomputation that `config` sets.
        config: Settings of the training.
        row_tokens: Length of a row in tokens.
        student_rows_per_row: Ratio of the student's rows to the mixture's; below 1 if the student reads less than the
            teacher.
        sharing: Numbers of devices that share student and teacher.
        device: Kind of the devices.
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
    stage: Literal["sft", "dpo"],
    shape: ModelShape,
    activations: ActivationBytes,
    config: SftConfig | DpoConfig,
    *,
    longest_tokens: int,
    row_tokens: int,
    scored_tokens: int = 0,
    device: DeviceKind = "cpu",
) -> Memory:
    """Return the peak memory of SFT or DPO, which train all parameters in fp32 with full logits on one device.

    Args:
        stage: Name of the stage; DPO reads two answers per sample.
        shape: Shape of the model with all parameters trained.
        activations: Activations of a row of `row_tokens` tokens in fp32.
        config: Settings of the stage.
        longest_tokens: Length to which a batch is padded.
        row_tokens: Length of the rows of `activations`.
        scored_tokens: Tokens of the candidates that selection scores before in the same process.
        device: Kind of the device.
    """
    sequences = config.batch_size * (2 if stage == "dpo" else 1)
    rows = sequences * longest_tokens / row_tokens
    loss_bytes = _NUM_LOGITS * sequences * longest_tokens * shape.vocab * FP32
    scoring_bytes = _NUM_SCORING_LOGITS * FP32 * min(scored_tokens * shape.vocab, MAX_LOGITS)
    return Memory(
        stage=stage,
        parameters=shape.num_base * FP32,
        gradients=shape.num_base * FP32,
        optimizer=optimizer_bytes(shape, config.optimizer.state),
        teacher=0,
        activations=round(rows * (activations.saved + activations.largest)),
        head=max(loss_bytes, scoring_bytes),
        process=ALIGNMENT_PROCESS_BYTES[device],
    )


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
