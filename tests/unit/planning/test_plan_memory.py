"""Memory and operations of a plan, against numbers computed by hand."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from mixcpt.config import (
    AdapterOffTeacherConfig,
    CachedTeacherConfig,
    CptMethod,
    DpoConfig,
    LoraScopeConfig,
    PretrainConfig,
    RuntimeConfig,
    SelectionConfig,
    SftConfig,
)
from mixcpt.planning.memory import (
    ActivationBytes,
    DeviceKind,
    ModelShape,
    Sharing,
    activation_bytes,
    alignment_memory,
    model_shape,
    optimizer_bytes,
    pretraining_memory,
    selection_memory,
)
from mixcpt.store.models import CLOSED_WORLD_PATH, ModelRef

HIDDEN, INNER, LAYERS, VOCAB, HEADS, HEAD_SIZE = 192, 512, 4, 1935, 6, 32
ATTENTION, MLP, NORMS = 4 * HIDDEN * HIDDEN, 3 * HIDDEN * INNER, 2 * HIDDEN
EMBEDDING = VOCAB * HIDDEN
"""Embedding of the base model of mixcpt, which is also its head."""
NUM_PARAMETERS = EMBEDDING + LAYERS * (ATTENTION + MLP + NORMS) + HIDDEN
RANK = 16
NUM_ADAPTED = LAYERS * RANK * (4 * (HIDDEN + HIDDEN) + 3 * (HIDDEN + INNER))

BASE = ModelRef("closed-world", str(CLOSED_WORLD_PATH), "0" * 64)
FULL = PretrainConfig()
LORA = PretrainConfig(scope=LoraScopeConfig(rank=RANK), teacher=AdapterOffTeacherConfig())
NO_ACTIVATIONS = ActivationBytes(0, 0)


def shape(**changes: int | bool) -> ModelShape:
    """A model of a million parameters, all trained, 600,000 of them in large layers."""
    values = {
        "num_parameters": 1_000_000,
        "num_trained": 1_000_000,
        "num_base": 1_000_000,
        "num_narrow": 600_000,
        "flops_per_token": 6_000_000,
        "multiplied": 1_000_000,
        "vocab": 1000,
        "hidden": 100,
        "num_layers": 2,
        "head_is_trained": True,
    }
    return ModelShape(**{**values, **changes})  # type: ignore[arg-type]


def test_shape_of_full_training_counts_every_parameter_at_six_operations() -> None:
    counted = model_shape(BASE, FULL)
    assert (counted.num_parameters, counted.num_trained, counted.num_base) == (NUM_PARAMETERS,) * 3
    assert counted.flops_per_token == 6 * NUM_PARAMETERS
    assert 2 * counted.multiplied == 2 * NUM_PARAMETERS  # a teacher's forward
    assert counted.head_is_trained


def test_shape_of_lora_counts_four_operations_and_two_more_for_what_is_trained() -> None:
    counted = model_shape(BASE, LORA)
    assert counted.num_trained == NUM_ADAPTED
    assert counted.num_parameters == NUM_PARAMETERS + NUM_ADAPTED
    assert counted.num_base == NUM_PARAMETERS
    assert counted.flops_per_token == 4 * (NUM_PARAMETERS + NUM_ADAPTED) + 2 * NUM_ADAPTED
    assert not counted.head_is_trained


def test_shape_with_recomputed_activations_costs_one_more_forward() -> None:
    config = FULL.model_copy(update={"gradient_checkpointing": True})
    assert model_shape(BASE, config).flops_per_token == 8 * NUM_PARAMETERS


def test_memory_of_full_fp32_training_is_sixteen_bytes_a_parameter_and_a_teacher_of_four() -> None:
    memory = pretraining_memory(shape(), NO_ACTIVATIONS, FULL, row_tokens=256)
    assert memory.parameters + memory.gradients + memory.optimizer == 16 * 1_000_000
    assert memory.teacher == 4 * 1_000_000


def test_memory_of_bf16_training_keeps_fp32_weights_and_a_teacher_of_two_bytes() -> None:
    config = FULL.model_copy(update={"precision": "bf16"})
    memory = pretraining_memory(shape(), NO_ACTIVATIONS, config, row_tokens=256)
    assert (memory.parameters, memory.teacher) == (4_000_000, 2_000_000)


def test_memory_of_lora_trains_only_the_adapters_and_needs_no_second_model() -> None:
    of = shape(num_parameters=1_010_000, num_trained=10_000, head_is_trained=False)
    memory = pretraining_memory(of, NO_ACTIVATIONS, LORA, row_tokens=256)
    assert memory.parameters == 4 * 1_010_000
    assert (memory.gradients, memory.optimizer, memory.teacher) == (40_000, 80_000, 0)


@pytest.mark.parametrize("config", [PretrainConfig(method=CptMethod()), PretrainConfig(teacher=CachedTeacherConfig())])
def test_memory_without_a_running_teacher_has_none(config: PretrainConfig) -> None:
    assert pretraining_memory(shape(), NO_ACTIVATIONS, config, row_tokens=256).teacher == 0


def test_memory_of_an_8_bit_optimiser_is_two_bytes_of_large_layers_and_eight_of_the_rest() -> None:
    assert optimizer_bytes(shape(), "int8") == 2 * 600_000 + 8 * 400_000
    assert optimizer_bytes(shape(), "fp32") == 8 * 1_000_000


def test_memory_sharded_over_eight_holds_an_eighth_of_model_and_teacher_and_all_activations() -> None:
    runtime = RuntimeConfig(num_processes=8, sharding="full")
    rows = ActivationBytes(saved=1000, largest=24)
    one = pretraining_memory(shape(), rows, FULL, row_tokens=256)
    eighth = pretraining_memory(shape(), rows, FULL, row_tokens=256, sharing=Sharing.of(runtime, 8))
    for part in ("parameters", "gradients", "optimizer", "teacher"):
        assert eighth.parts[part] * 8 == one.parts[part]
    assert eighth.activations == one.activations == 8 * 1024


def test_memory_of_hybrid_sharding_spreads_the_student_over_a_host_and_the_teacher_over_all() -> None:
    assert Sharing.of(RuntimeConfig(num_processes=16, sharding="hybrid"), 8) == Sharing(student=8, teacher=16)
    assert Sharing.of(RuntimeConfig(num_processes=16), 8) == Sharing(1, 1)


def test_memory_of_sft_is_sixteen_bytes_a_parameter_and_three_times_the_logits_of_a_tile() -> None:
    config = SftConfig(batch_size=4)
    of = shape(head_is_trained=False)
    memory = alignment_memory("sft", of, NO_ACTIVATIONS, config, longest_tokens=50, row_tokens=256)
    assert memory.parameters + memory.gradients + memory.optimizer == 16 * 1_000_000
    assert memory.head == 3 * 4 * 50 * 1000 * 4
    pairs = alignment_memory("dpo", of, NO_ACTIVATIONS, config, longest_tokens=50, row_tokens=256)
    assert pairs.head == 2 * memory.head
    large = alignment_memory("sft", shape(vocab=10**6), NO_ACTIVATIONS, config, longest_tokens=10**5, row_tokens=256)
    assert large.head == 3 * 4096 * 32768 * 4 + 10**6 * 100 * 4  # one tile, and the gradient of the head


def test_memory_of_sft_is_at_least_that_of_the_scoring_before_it() -> None:
    config = SftConfig(batch_size=4)
    few: dict[str, Any] = {"longest_tokens": 50, "row_tokens": 256}
    after = alignment_memory("sft", shape(), NO_ACTIVATIONS, config, scored_tokens=10_000, **few)
    assert after.head == 2 * 10_000 * 1000 * 4
    most = alignment_memory("sft", shape(), NO_ACTIVATIONS, config, scored_tokens=10**6, **few)
    assert most.head == 2 * 4 * 2**25  # no batch has more logits


@pytest.mark.parametrize(
    ("precision", "device", "width"), [("bf16", "cuda", 2), ("bf16", "cpu", 4), ("fp32", "cuda", 4)]
)
def test_memory_of_alignment_with_adapters_holds_the_frozen_weights_once_in_the_precision_of_the_device(
    precision: Literal["bf16", "fp32"], device: DeviceKind, width: int
) -> None:
    config = DpoConfig(scope=LoraScopeConfig(), precision=precision)
    of = shape(num_parameters=1_010_000, num_trained=10_000, head_is_trained=False)
    memory = alignment_memory("dpo", of, NO_ACTIVATIONS, config, longest_tokens=50, row_tokens=256, device=device)
    assert memory.parameters == width * 1_000_000 + 4 * 10_000
    assert (memory.gradients, memory.optimizer, memory.teacher) == (40_000, 80_000, 0)


def test_memory_of_sharded_alignment_holds_a_share_of_the_model_and_of_the_batch() -> None:
    rows = ActivationBytes(saved=1000, largest=24)
    config = SftConfig(batch_size=16)
    lengths: dict[str, Any] = {"longest_tokens": 256, "row_tokens": 256}
    one = alignment_memory("sft", shape(), rows, config, **lengths)
    shared = alignment_memory("sft", shape(), rows, config, num_processes=8, sharing=Sharing(student=8), **lengths)
    for part in ("parameters", "gradients", "optimizer", "activations"):
        assert shared.parts[part] * 8 == one.parts[part]


def test_memory_of_selection_is_the_weights_and_the_logits_of_a_batch() -> None:
    fp32 = selection_memory(shape(), SelectionConfig(), longest_tokens=50, scored_tokens=10**6, device="cuda")
    assert (fp32.parameters, fp32.head) == (4_000_000, 2 * 4 * 2**25)
    config = SelectionConfig(precision="bf16")
    bf16 = selection_memory(shape(vocab=10**6), config, longest_tokens=50, scored_tokens=10**6, device="cuda")
    assert (bf16.parameters, bf16.head) == (2_000_000, 2 * 4 * 50 * 10**6)  # a whole sample at least


def test_activations_are_what_a_real_forward_keeps() -> None:
    row = 64
    state, inner = row * HIDDEN * 4, row * INNER * 4
    # each layer: two norms (their input, its square's root, the normalized), inputs of projections, attention with its
    # normalizers and its mask as numbers, the MLP's three products; counted from the architecture
    counted = activation_bytes(BASE, FULL, row)
    least = LAYERS * (6 * state + 4 * inner)
    assert least < counted.saved < 2 * least
    assert counted.largest == inner


def test_activations_in_bf16_are_fewer_and_recomputed_ones_fewer_still() -> None:
    full = activation_bytes(BASE, FULL, 64).saved
    in_bf16 = activation_bytes(BASE, FULL.model_copy(update={"precision": "bf16"}), 64)
    recomputed = activation_bytes(BASE, FULL.model_copy(update={"gradient_checkpointing": True}), 64).saved
    assert 0.5 * full < in_bf16.saved < 0.8 * full
    assert in_bf16.copies == 2 * LAYERS * (ATTENTION + MLP)
    assert recomputed == LAYERS * 64 * HIDDEN * 4 + full // LAYERS


def test_activations_of_the_shipped_base_are_those_of_its_configuration() -> None:
    config = json.loads(Path(CLOSED_WORLD_PATH / "config.json").read_text())
    assert (config["hidden_size"], config["intermediate_size"], config["vocab_size"]) == (HIDDEN, INNER, VOCAB)
