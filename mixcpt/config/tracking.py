"""Settings of the tools that show a training in addition to MLflow."""

from typing import Literal

from pydantic import field_validator

from mixcpt.config.base import Settings, require_unique

Reporter = Literal["tensorboard", "wandb"]


class TrackingConfig(Settings):
    """Tools that show a training in addition to MLflow; no setting here changes a result."""

    also: tuple[Reporter, ...] = ()
    """Further tools that get the measurements of pre-training, SFT and DPO: `tensorboard` (folder `tensorboard` of the
    store) and `wandb` (folder `wandb` of the store, without network unless WANDB_MODE is set)."""

    @field_validator("also")
    @classmethod
    def _check_also(cls, also: tuple[Reporter, ...]) -> tuple[Reporter, ...]:
        require_unique("the tools of tracking.also", also)
        return also
