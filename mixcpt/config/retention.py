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
    act: Literal["alpha", "replay", "stop", "none"] = "alpha"
    """What is done where the probe sees more lost than promised. `alpha`: more weight on the teacher, less on the true
    token. `replay`: more weight on general text, less on the domain's. `stop`: training ends. `none`: nothing. In the
    end the weights go back towards the base as far as the promise asks for."""
    check_steps: PositiveInt = 10
    """Steps between two looks at the probe."""
    sure: float = Field(0.7, gt=0, lt=1)
    """How sure the probe has to be in the end that no more than `max_loss` is lost; the surer, the more cautious."""
