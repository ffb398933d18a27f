"""Format alignment: a small number of general samples teaches the chat format, not facts."""

from typing import Literal

from pydantic import Field

from mixcpt.config.base import PositiveFloat, PositiveInt, Settings
from mixcpt.config.optimizer import OptimizerConfig
from mixcpt.config.pretrain import FullScopeConfig, Scope

AlignPrecision = Literal["pretrain", "fp32", "bf16"]
Strategy = Literal["known_gap", "gap", "ppl_low", "ppl_low_plain", "random"]


class SelectionConfig(Settings):
    """Selection of alignment samples from the general pools."""

    strategy: Strategy = "known_gap"
    """Criterion for the selection. `known_gap`: samples that the model predicts well as plain text, but badly in the
    chat form. `gap`: samples that the chat form makes hardest, among all samples. `ppl_low`: the easiest samples in the
    chat form. `ppl_low_plain`: the easiest samples as plain text. `random`: a random control."""
    num_instructions: int = Field(200, ge=0)
    """Number of samples for SFT; 0 skips SFT."""
    num_preferences: int = Field(100, ge=0)
    """Number of pairs for DPO; 0 skips DPO."""
    num_candidates: PositiveInt = 2000
    """Maximum number of samples per pool that are scored, drawn at random."""
    max_tokens: PositiveInt = 512
    """Maximum length of a candidate in the chat form, in tokens; should not exceed `sft.max_tokens` and
    `dpo.max_tokens`."""
    precision: AlignPrecision = "pretrain"
    """Number format of the model that scores the candidates on a GPU. `pretrain`: as in `pretrain.precision`."""


class SftConfig(Settings):
    """Supervised fine-tuning on the chat form; only answers are scored."""

    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-4)
    """Optimiser and learning-rate schedule of SFT."""
    epochs: PositiveInt = 3
    """Number of passes over the selected instructions."""
    batch_size: PositiveInt = 16
    """Samples per optimiser step, summed over all devices."""
    max_tokens: PositiveInt = 512
    """Maximum length of a sample in tokens; longer samples are removed and counted."""
    scope: Scope = FullScopeConfig()
    """Trained parameters: full (all of them) or lora (adapters, merged into the published model)."""
    precision: AlignPrecision = "pretrain"
    """Number format of the computation. `pretrain`: as in `pretrain.precision`. With bf16 and scope lora, a GPU holds
    the frozen weights in bf16 too."""
    gradient_checkpointing: bool = False
    """Whether the backward pass recomputes activations: saves memory and takes about a third more time."""
    divergence: Literal["stop", "ignore"] = "stop"
    """Reaction to a loss that stays far above its start: `stop` ends the stage with an error, `ignore` goes on."""


class DpoConfig(Settings):
    """Direct preference optimisation; the reference is the SFT model."""

    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-6)
    """Optimiser and learning-rate schedule of DPO."""
    epochs: PositiveInt = 1
    """Number of passes over the selected pairs."""
    batch_size: PositiveInt = 16
    """Pairs per optimiser step, summed over all devices."""
    beta: PositiveFloat = 0.1
    """Strength of the regularisation towards the reference model; higher stays closer to it."""
    max_tokens: PositiveInt = 512
    """Maximum length of a pair in tokens; longer pairs are removed and counted."""
    scope: Scope = FullScopeConfig()
    """Trained parameters: full (all of them) or lora (adapters, merged into the published model). With lora,
    the reference is the model without its adapters."""
    precision: AlignPrecision = "pretrain"
    """Number format of the computation. `pretrain`: as in `pretrain.precision`. With bf16 and scope lora, a GPU holds
    the frozen weights in bf16 too."""
    gradient_checkpointing: bool = False
    """Whether the backward pass recomputes activations: saves memory and takes about a third more time."""
    divergence: Literal["stop", "ignore"] = "stop"
    """Reaction to a loss that stays far above its start: `stop` ends the stage with an error, `ignore` goes on."""


class AlignConfig(Settings):
    """Stage 2: selection, SFT, DPO."""

    selection: SelectionConfig = SelectionConfig()
    """Selection of the alignment samples."""
    sft: SftConfig = SftConfig()
    """Supervised fine-tuning (SFT)."""
    dpo: DpoConfig = DpoConfig()
    """Direct preference optimisation (DPO)."""
