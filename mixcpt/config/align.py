"""Format alignment: few general samples teach the chat form, not facts."""

from typing import Literal

from pydantic import Field

from mixcpt.config.base import PositiveFloat, PositiveInt, Settings
from mixcpt.config.optimizer import OptimizerConfig

Strategy = Literal["known_gap", "gap", "ppl_low", "ppl_low_plain", "random"]


class SelectionConfig(Settings):
    """Which samples of the general pools are used."""

    strategy: Strategy = "known_gap"
    """`known_gap`: among samples the model already predicts well as plain text, those that the chat form makes hardest.
    `gap`: those among all samples. `ppl_low`: the easiest in the chat form. `ppl_low_plain`: the easiest as plain text.
    `random`: the control."""
    num_instructions: int = Field(200, ge=0)
    """Samples for SFT; 0 skips it."""
    num_preferences: int = Field(100, ge=0)
    """Pairs for DPO; 0 skips it."""
    num_candidates: PositiveInt = 2000
    """At most so many samples of each pool, drawn at random, are scored."""
    max_tokens: PositiveInt = 512
    """Samples that are longer in the chat form are no candidates; keep it at or below that of sft and dpo."""


class SftConfig(Settings):
    """Supervised fine-tuning on the chat form; the loss counts answers alone."""

    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-4)
    """Optimiser and schedule."""
    epochs: PositiveInt = 3
    """Passes over the selected instructions."""
    batch_size: PositiveInt = 16
    """Samples per step."""
    max_tokens: PositiveInt = 512
    """Longer samples are removed and counted."""


class DpoConfig(Settings):
    """Direct preference optimisation; the reference is the SFT model."""

    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-6)
    """Optimiser and schedule."""
    epochs: PositiveInt = 1
    """Passes over the selected pairs."""
    batch_size: PositiveInt = 16
    """Pairs per step."""
    beta: PositiveFloat = 0.1
    """Strength of the pull towards the reference."""
    max_tokens: PositiveInt = 512
    """Longer pairs are removed and counted."""


class AlignConfig(Settings):
    """Stage 2: selection, SFT, DPO."""

    selection: SelectionConfig = SelectionConfig()
    """Which samples."""
    sft: SftConfig = SftConfig()
    """Supervised fine-tuning."""
    dpo: DpoConfig = DpoConfig()
    """Preference optimisation."""
