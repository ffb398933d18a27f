"""A retention promise: the share of existing skills that the adapted model may lose."""

from typing import Literal

from pydantic import Field

from mixcpt.config.base import PositiveInt, Settings


class RetentionConfig(Settings):
    """A promise that training keeps, steered by probe questions that no report shows."""

    max_loss: float = Field(0.0, ge=0, lt=1)
    """Maximum share of the questions that the model may lose in any protected task: 0.02 is two points. 0 means no
    promise."""
    tasks: tuple[str, ...] = ()
    """Names of the protected tasks, which need right and wrong answers; empty means `evaluate.headline_general`."""
    action: Literal["alpha", "replay", "stop", "none"] = "alpha"
    """Reaction of the training if the probe measures a higher loss than promised. `alpha`: shift weight from the true
    token to the teacher. `replay`: shift weight from domain text to general text. `stop`: end the training. `none`: no
    reaction. After every training the weights move back towards the base until the promise holds."""
    check_steps: PositiveInt = 10
    """Optimiser steps between two measurements on the probe questions."""
    confidence: float = Field(0.7, gt=0, lt=1)
    """One-sided confidence that the loss is at most `max_loss`, required at the end of training. Higher is more
    cautious."""
