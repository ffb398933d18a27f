"""Mixture of the pools, and its packing into rows."""

from typing import Literal

from pydantic import Field, model_validator

from mixcpt.config.base import PositiveInt, Settings


class PoolWeights(Settings):
    """Share of the training tokens per pool, on any positive scale; normalised to a sum of 1."""

    domain: float = Field(0.5, ge=0)
    """Weight of domain documents, the new knowledge."""
    instructions: float = Field(0.4, ge=0)
    """Weight of general instructions, written as plain text without a template; 0 leaves them out."""
    preferences: float = Field(0.1, ge=0)
    """Weight of general preference pairs, whose chosen answers are written as plain text; 0 leaves them out."""
    general: float = Field(0.0, ge=0)
    """Weight of general documents, for replay; 0 leaves them out."""

    @model_validator(mode="after")
    def _check(self) -> "PoolWeights":
        if self.domain <= 0:
            raise ValueError("the weight of domain must be above 0; otherwise there is nothing new to learn")
        return self


class MixtureConfig(Settings):
    """Text that the model reads during continual pre-training."""

    weights: PoolWeights = PoolWeights()
    """Shares of the pools in the training tokens, met exactly. The Mix-CPT paper does not print its ratio; the default
    is 1 : 1 of domain and general text."""
    total_tokens: PositiveInt = 900_000
    """Length of the training, in tokens. A pool with fewer tokens than its share is read several times, reshuffled each
    time."""
    row_tokens: int = Field(256, ge=16)
    """Tokens per packed row; longer documents are split."""
    separator: str = "\n"
    """Text between a question and its answer."""
    loss_on: Literal["all", "response"] = "all"
    """Scored part of instructions and preferences: `all` (question and answer) or `response` (the answer only)."""
    special_tokens: Literal["text", "parse"] = "text"
    """Handling of special-token names, such as `</s>`, in documents: `text` reads them as ordinary text, `parse` as
    that token. Use `parse` only for text that you wrote: other documents could end themselves or imitate the user."""
    preference_text: Literal["chosen", "both"] = "chosen"
    """Answers of a preference pair that the model reads: `chosen`, or `both`, labelled as good and bad."""
