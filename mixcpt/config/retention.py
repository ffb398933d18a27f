"""A promise: what the adapted model may lose of skills that it already has."""

from typing import Literal

from pydantic import Field

from mixcpt.config.base import PositiveInt, Settings


class RetentionConfig(Settings):
    """A promise that training keeps by itself, steered by probe questions that no report ever shows."""

    max_loss: float = Field(0.0, ge=0, lt=1)
    """Share of the questions of each skill that may be lost: 0.02 are two points. 0 promises nothing."""
    tasks: tuple[str, ...] = ()
    """The skills, by the names of tasks with right and wrong answers; empty stands for `evaluate.headline_general`."""
    act: Literal["alpha", "replay", "stop"] = "alpha"
    """What is done where the probe says that the promise is in danger. `alpha`: more weight on the teacher, less on the
    true token. `replay`: more weight on general text, less on the domain's. `stop`: training ends. Whatever is left
    over the promise in the end is taken back by moving the weights towards the base."""
    check_steps: PositiveInt = 10
    """Steps between two looks at the probe."""
    sure: float = Field(0.8, gt=0, lt=1)
    """How sure the probe has to be that no more than `max_loss` is lost; the surer, the more cautious."""
