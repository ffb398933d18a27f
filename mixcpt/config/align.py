"""Format alignment: a small number of general samples teaches the chat format, not facts."""

from typing import Literal

from pydantic import Field

from mixcpt.config.base import PositiveFloat, PositiveInt, Settings
from mixcpt.config.optimizer import OptimizerConfig

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


class SftConfig(Settings):
    """Supervised fine-tuning on the chat form; only answers are scored."""

    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-4)
    """Optimiser and learning-rate schedule of SFT."""
    epochs: PositiveInt = 3
    """Number of passes over the selected instructions."""
    batch_size: PositiveInt = 16
    """Samples per optimiser step."""
    max_tokens: PositiveInt = 512
    """Maximum length of a sample in tokens; longer samples are removed and counted."""


class DpoConfig(Settings):
    """Direct preference optimisation; the reference is the SFT model."""

    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-6)
    """Optimiser and learning-rate schedule of DPO."""
    epochs: PositiveInt = 1
    """Number of passes over the selected pairs."""
    batch_size: PositiveInt = 16
    """Pairs per optimiser step."""
    beta: PositiveFloat = 0.1
    """Strength of the regularisation towards the reference model; higher stays closer to it."""
    max_tokens: PositiveInt = 512
    """Maximum length of a pair in tokens; longer pairs are removed and counted."""


class AlignConfig(Settings):
    """Stage 2: selection, SFT, DPO."""

    selection: SelectionConfig = SelectionConfig()
    """Selection of the alignment samples."""
    sft: SftConfig = SftConfig()
    """Supervised fine-tuning (SFT)."""
    dpo: DpoConfig = DpoConfig()
    """Direct preference optimisation (DPO)."""
