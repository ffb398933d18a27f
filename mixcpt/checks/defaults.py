"""Settings that suit a model, a device and the amount of text, each with its reason."""

import math
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from mixcpt.checks.model_size import ModelSize, count_text
from mixcpt.config import FilesSource
from mixcpt.curation.files import find_files
from mixcpt.planning.devices import DEVICES, named_device_memory, ram_bytes
from mixcpt.process.devices import usable_devices

ScopeKind = Literal["full", "lora"]

BYTES_PER_TOKEN = 4
"""Bytes of English text per token of a usual tokenizer."""
_PACKED = {".gz": 3, ".parquet": 2}
"""Bytes of text per byte of a compressed file."""
_GIB = 2**30
_FULL_RATES = ((10e6, 1e-3), (50e6, 3e-4), (400e6, 1e-4), (2e9, 3e-5), (math.inf, 1e-5))
_LORA_RATES = ((10e6, 1e-3), (400e6, 5e-4), (math.inf, 2e-4))
_SFT_RATES = ((50e6, 1e-4), (400e6, 5e-5), (2e9, 2e-5), (math.inf, 1e-5))
_DPO_RATES = ((50e6, 5e-6), (2e9, 1e-6), (math.inf, 5e-7))
"""Learning rates by number of parameters, up to each limit."""
_LORA_SFT_RATE, _LORA_DPO_RATE = 1e-4, 5e-6
_ASSUMED_PARAMETERS = 1_000_000_000
"""Size of a model whose size is unknown: a rate that is too low wastes time, one that is too high ruins the model."""
_TRAINED_BYTES = 20
"""Memory per parameter of full training: weights, gradients and two means in fp32, and the frozen teacher."""
_USABLE = 0.7
"""Share of the memory for these; the rest holds activations."""
_PASSES, _MAX_PASSES = 4, 9
"""Usual number of passes over the domain documents, and the maximum for few documents."""
_SHORT_TOKENS, _MIN_TOKENS = 20_000, 4_096
"""Length of a training below which it has more passes, and the minimum length."""
_CPU_OPERATIONS = 5e14
"""Operations of a training of about an hour on a CPU."""
_GPU_OPERATIONS = 5e18
"""Operations of a training of about half a day on a GPU."""
_OPERATIONS_PER_WEIGHT = 8
"""Operations per token and parameter: six of the student and two of the teacher."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Device on which a run trains."""

    name: str
    memory_bytes: int
    is_gpu: bool
    has_bf16: bool = True

    def __str__(self) -> str:
        return f"{'this ' if self.name in ('CPU', 'GPU') else ''}{self.name} ({self.memory_bytes / _GIB:.0f} GiB)"


@dataclass(frozen=True)
class Choice:
    """Value of a setting and the reason for it."""

    value: Any
    reason: str


def find_machine(device: str = "") -> Machine:
    """Return the device with this name; without a name, the GPU of this machine or else its CPU.

    Raises:
        ConfigError: If no device has this name.
    """
    if device and device != "cpu":
        return Machine(
            name=device, memory_bytes=named_device_memory(device), is_gpu=True, has_bf16=device.lower() != "t4"
        )
    if not device and usable_devices():
        return Machine(name="GPU", memory_bytes=_gpu_bytes(), is_gpu=True)
    return Machine(name="CPU", memory_bytes=ram_bytes(), is_gpu=False)


def sound_rate(num_parameters: int, scope: ScopeKind) -> float:
    """Return the usual peak learning rate of pre-training a model of this size."""
    return _of_size(_LORA_RATES if scope == "lora" else _FULL_RATES, num_parameters)


def sound_sft_rate(num_parameters: int, scope: ScopeKind) -> float:
    """Return the usual peak learning rate of SFT of a model of this size."""
    return _LORA_SFT_RATE if scope == "lora" else _of_size(_SFT_RATES, num_parameters)


def sound_dpo_rate(num_parameters: int, scope: ScopeKind) -> float:
    """Return the usual peak learning rate of DPO of a model of this size."""
    return _LORA_DPO_RATE if scope == "lora" else _of_size(_DPO_RATES, num_parameters)


def source_tokens(sources: Iterable[FilesSource]) -> int:
    """Estimate the tokens of some sources from the sizes of their files."""
    files = chain.from_iterable(find_files(source, "").files for source in sources)
    sizes = [file.stat().st_size * _PACKED.get(file.suffix.lower(), 1) for file in files if file.is_file()]
    return sum(sizes) // BYTES_PER_TOKEN


def choose(size: ModelSize, machine: Machine, *, domain_tokens: int, domain_share: float) -> dict[str, Choice]:
    """Return values and reasons by key path for a run of a model on a device.

    Args:
        size: Size of the model.
        machine: Device of the training.
        domain_tokens: Estimated tokens of the domain documents.
        domain_share: Share of the domain documents in the training tokens.
    """
    parameters = size.num_parameters or _ASSUMED_PARAMETERS
    who = f"{size} parameters" if size.num_parameters else "a model of unknown size, taken as 1 billion parameters"
    scope = _scope(parameters, machine)
    total = _total_tokens(parameters, machine, domain_tokens, domain_share)
    row = _row_tokens(parameters, machine, size.context_tokens)
    batch = batch_rows(total.value, row.value)
    micro = min(batch.value, _micro_rows(parameters))
    method = "adapters" if scope.value == "lora" else "full training"
    return {
        "mixture.total_tokens": total,
        "mixture.row_tokens": row,
        "pretrain.scope": scope,
        "pretrain.optimizer.learning_rate": Choice(
            sound_rate(parameters, scope.value),
            f"usual for {method} of {who}; ten times as much usually destroys the model",
        ),
        "pretrain.batch_rows": batch,
        "pretrain.micro_batch_rows": Choice(micro, "rows at once that usually fit; see `mixcpt plan`"),
        "pretrain.precision": _precision(machine),
        "pretrain.gradient_checkpointing": Choice(
            parameters >= 1e9, "saves memory, which models from 1 billion parameters need"
        ),
        "align.sft.optimizer.learning_rate": Choice(sound_sft_rate(parameters, scope.value), f"usual for {who}"),
        "align.dpo.optimizer.learning_rate": Choice(sound_dpo_rate(parameters, scope.value), f"usual for {who}"),
    }


def two_digits(number: int) -> int:
    """Return the number rounded to two digits."""
    factor = int(10 ** max(len(str(number)) - 2, 0))
    return max(round(number / factor), 1) * factor


def _of_size(rates: Sequence[tuple[float, float]], num_parameters: int) -> float:
    return next(rate for limit, rate in rates if num_parameters < limit)


def _scope(parameters: int, machine: Machine) -> Choice:
    needed, there = parameters * _TRAINED_BYTES, machine.memory_bytes * _USABLE
    memory = f"full training of {count_text(parameters)} parameters needs about {max(needed / _GIB, 0.1):.1f} GiB"
    if needed <= there:
        return Choice("full", f"{memory}, which fits {machine}; it learns more than adapters")
    return Choice("lora", f"{memory} and does not fit {machine}; adapters need a fraction")


def _precision(machine: Machine) -> Choice:
    if not machine.is_gpu:
        return Choice("fp32", "a CPU computes bf16 slowly")
    if not machine.has_bf16:
        return Choice("fp32", f"a {machine.name} has no bf16")
    return Choice("bf16", "several times as fast as fp32 on a GPU; the weights stay in fp32")


def _row_tokens(parameters: int, machine: Machine, context: int) -> Choice:
    usual = 2048 if machine.is_gpu and parameters >= 100e6 else 512
    if context and context <= usual:
        return Choice(context, "the context of the model")
    limit = f"; the model reads at most {context:,}" if context else ""
    return Choice(usual, f"usual for this size and device{limit}")


def _total_tokens(parameters: int, machine: Machine, domain_tokens: int, share: float) -> Choice:
    unique = domain_tokens / share
    wanted = max(round(_PASSES * unique), min(_SHORT_TOKENS, round(_MAX_PASSES * unique)), _MIN_TOKENS)
    operations = _GPU_OPERATIONS if machine.is_gpu else _CPU_OPERATIONS
    limit = max(round(operations / parameters / _OPERATIONS_PER_WEIGHT), _MIN_TOKENS)
    total = two_digits(min(wanted, limit))
    passes = total * share / max(domain_tokens, 1)
    text = f"{passes:.1f} passes over about {domain_tokens:,} tokens of documents at a share of {share:.0%}"
    hours = "half a day on a GPU" if machine.is_gpu else "an hour on a CPU"
    return Choice(total, f"{text}, limited to about {hours}" if limit < wanted else text)


def batch_rows(total_tokens: int, row_tokens: int) -> Choice:
    """Return the largest power of two between 8 and 64 with about a hundred steps or more."""
    rows = total_tokens / row_tokens
    batch = min(64, max(8, 2 ** math.floor(math.log2(max(rows / 100, 1)))))
    return Choice(batch, f"about {max(round(rows / batch), 1):,} optimiser steps")


def _micro_rows(parameters: int) -> int:
    return 8 if parameters < 500e6 else 4 if parameters < 3e9 else 2


def _gpu_bytes() -> int:
    """Return the memory of the smallest GPU; that of a common one if the driver cannot be queried."""
    program = shutil.which("nvidia-smi")
    if program:
        command = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
        if sizes := [int(line) for line in answer.split() if line.isdigit()]:
            return min(sizes) * 2**20
    return round(DEVICES["rtx4090"].memory_gib * _GIB)
