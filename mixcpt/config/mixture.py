"""How the pools are put together and packed into rows."""

from typing import Literal

from pydantic import Field, model_validator

from mixcpt.config.base import PositiveInt, Settings


class PoolWeights(Settings):
    """Share of the training tokens that each pool gets; any positive scale, normalised to 1."""

    domain: float = Field(0.5, ge=0)
    """Domain documents: the new knowledge."""
    instructions: float = Field(0.4, ge=0)
    """General instructions, as plain text without any template."""
    preferences: float = Field(0.1, ge=0)
    """General preference pairs, their chosen answers as plain text."""
    general: float = Field(0.0, ge=0)
    """General documents, for replay."""

    @model_validator(mode="after")
    def _check(self) -> "PoolWeights":
        if self.domain <= 0:
            raise ValueError("the weight of domain must be above 0; there would be nothing new to learn")
        return self


class MixtureConfig(Settings):
    """What the model reads during continual pre-training."""

    weights: PoolWeights = PoolWeights()
    """Share of each pool, by tokens, exact. The Mix-CPT paper does not print its ratio; 1 : 1 is our default."""

    total_tokens: PositiveInt = 900_000
    """Length of the training in tokens. A pool shorter than its share is read several times, reshuffled each time."""

    row_tokens: int = Field(256, ge=16)
    """Tokens per packed row; longer documents are split."""

    separator: str = "\n"
    """Stands between question and answer."""

    loss_on: Literal["all", "response"] = "all"
    """Whether the question is learned too, or the answer alone (instructions and preferences)."""

    special_tokens: Literal["text", "parse"] = "text"
    """Whether the name of a special token, such as `</s>`, in a document is ordinary text or becomes that token.
    `parse` only text that you made yourself: a foreign document could otherwise end itself or speak as the user."""

    preference_text: Literal["chosen", "both"] = "chosen"
    """`both` also shows the rejected answer; the two are then labelled good and bad."""
