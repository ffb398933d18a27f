"""What fills a device while it trains; formulas over the model's shape, hand-checkable."""

from dataclasses import dataclass
from typing import Literal

from mixcpt.align.scoring import MAX_LOGITS
from mixcpt.config import DpoConfig, PretrainConfig, RuntimeConfig, SftConfig, StreamConfig
from mixcpt.distill.buffers import Needs, buffer_bytes
from mixcpt.planning.shape import ActivationBytes, ModelShape
from mixcpt.records.plan import Memory

FP32, BF16 = 4, 2
_MEANS = {"fp32": 8, "int8": 2}
"""Bytes a trained parameter of AdamW's two means."""
_NUM_LOGITS = 3
"""What TRL's losses hold of full logits at once: the logits, their softmax, its gradient."""
_NUM_SCORING_LOGITS = 2
"""What selection holds of a batch's logits: them, and their log-softmax."""
PROCESS_BYTES = {"cpu": 600 * 2**20, "cuda": 0}
"""Of a training process before it holds a model: on a CPU the libraries' own memory. What CUDA holds for itself is
none of the allocator's, whose peak is what a stage records: see `CUDA_CONTEXT_BYTES`."""
CUDA_CONTEXT_BYTES = 800 * 2**20
"""Of the device's memory that no tensor can have."""
ALIGNMENT_PROCESS_BYTES = {"cpu": 480 * 2**20, "cuda": 0}
"""Of a process of SFT or DPO, which reads no mixture and compiles no loss."""

DeviceKind = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Sharing:
    """Over how many devices the parts of a model are spread."""

    student: int = 1
    teacher: int = 1

    @classmethod
    def of(cls, runtime: RuntimeConfig, devices_per_host: int) -> "Sharing":
        """Returns 1 each without sharding; `hybrid` shards a host's student, the teacher over all."""
        if runtime.sharding == "none":
            return cls()
        local = min(devices_per_host, runtime.num_processes)
        return cls(local if runtime.sharding == "hybrid" else runtime.num_processes, runtime.num_processes)


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
    """Returns the peak of pre-training on each device.

    Weights are kept in fp32: 4 bytes a parameter, 4 of gradient and 8 of AdamW's means for each that is trained.

    Args:
        shape: Of the student.
        activations: Of one row, in the precision and with the recomputation that `config` asks for.
        config: Settings of the training.
        row_tokens: Length of a row.
        student_rows_per_row: Below 1 where the student reads parts of what the teacher reads.
        sharing: Over how many devices what is spread.
        device: Which kind of them.
    """
    rows = max(1.0, config.micro_batch_rows * student_rows_per_row)
    return Memory(
        "pretrained",
        parameters=shape.num_parameters * FP32 // sharing.student,
        gradients=shape.num_trained * FP32 // sharing.student,
        optimizer=optimizer_bytes(shape, config.optimizer.state) // sharing.student,
        teacher=_teacher_bytes(shape, config) // sharing.teacher,
        activations=round(rows * (activations.saved + activations.largest)) + activations.copies,
        head=_head_bytes(shape, config, round(rows * row_tokens), device),
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
    """Returns the peak of SFT or DPO, which train all of the model in fp32, with full logits, on one device.

    Args:
        stage: Which; DPO reads two answers a sample.
        shape: Of the plain model.
        activations: Of a row of `row_tokens` tokens of it, in fp32.
        config: Settings of the stage.
        longest_tokens: Length to which a batch is padded.
        row_tokens: Length of the rows of `activations`.
        scored_tokens: Of the candidates that selection scored before, in the same process.
        device: Which kind.
    """
    rows = config.batch_size * (2 if stage == "dpo" else 1)
    rows_like_those = rows * longest_tokens / row_tokens
    scoring = _NUM_SCORING_LOGITS * FP32 * min(scored_tokens * shape.vocab, MAX_LOGITS)
    return Memory(
        stage,
        parameters=shape.num_base * FP32,
        gradients=shape.num_base * FP32,
        optimizer=optimizer_bytes(shape, config.optimizer.state),
        teacher=0,
        activations=round(rows_like_those * (activations.saved + activations.largest)),
        head=max(_NUM_LOGITS * rows * longest_tokens * shape.vocab * FP32, scoring),
        process=ALIGNMENT_PROCESS_BYTES[device],
    )


def optimizer_bytes(shape: ModelShape, state: Literal["fp32", "int8"]) -> int:
    """Returns AdamW's two means: 8 bytes a trained parameter; in 8 bits 2, but for embeddings and small tensors."""
    narrow = shape.num_narrow if state == "int8" else 0
    return narrow * _MEANS["int8"] + (shape.num_trained - narrow) * _MEANS["fp32"]


def teacher_runs(config: PretrainConfig) -> bool:
    """Returns whether a model predicts beside the student."""
    return config.teacher.kind != "cached" and any(stream.kl_weight > 0 for stream in config.method.streams())


def _teacher_bytes(shape: ModelShape, config: PretrainConfig) -> int:
    if config.teacher.kind != "frozen" or not teacher_runs(config):
        return 0
    return shape.num_base * (BF16 if config.precision == "bf16" else FP32)


def _head_bytes(shape: ModelShape, config: PretrainConfig, tokens: int, device: DeviceKind) -> int:
    """Returns the fused loss's chunks, the gradient of the hidden states, and the head's own beside an embedding's."""
    width = BF16 if config.precision == "bf16" else FP32
    copies = BF16 if config.precision == "bf16" else 0
    chunks = max(
        buffer_bytes(tokens, shape.vocab, Needs(*_matrices(config, stream, device), copies), device_type=device)
        for stream in config.method.streams()
    )
    teacher_states = tokens * shape.hidden * width if teacher_runs(config) else 0
    of_weight = shape.vocab * shape.hidden * FP32 if shape.head_is_trained else 0
    return chunks + tokens * shape.hidden * width + teacher_states + of_weight


def _matrices(config: PretrainConfig, stream: StreamConfig, device: DeviceKind) -> tuple[int, int]:
    """Return the numbers of logit matrices and of spare matrices that a chunk of a stream needs."""
    if not stream.needs_teacher or config.teacher.kind == "cached":
        return 1, 0
    return 2, 0 if device == "cuda" else 1
