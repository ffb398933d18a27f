"""Callbacks of the libraries that show a training in addition to MLflow; their errors never stop the training."""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from mixcpt.process.reporters import wanted_reporters

_log = logging.getLogger("mixcpt.train")


def reporter_callbacks() -> "list[ReporterCallback]":
    """Return one callback for each tool that the present stage also reports to."""
    return [ReporterCallback(name) for name in wanted_reporters()]


class ReporterCallback(TrainerCallback):
    """Passes the events of a training to the own callback of a library; after an error it stops doing so."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._callback: TrainerCallback | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        if state.is_world_process_zero:
            self._tolerate(self._begin, args, state, control, **rest)

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **rest: Any,
    ) -> None:
        if self._callback:
            self._tolerate(self._callback.on_log, args, state, control, logs=dict(logs or {}), **rest)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        if self._callback:
            self._tolerate(self._callback.on_train_end, args, state, control, **rest)
            self._tolerate(self._close)
        self._callback = None

    def _begin(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        self._close()  # of a stage that failed in this process
        (callback_class,) = get_reporting_integration_callbacks([self._name])
        if self._name == "wandb":
            _begin_wandb()
        callback: TrainerCallback = callback_class()
        callback.on_train_begin(args, state, control, **rest)
        self._callback = callback

    def _close(self) -> None:
        """End the run of this process in wandb, because the next stage may run in the same process."""
        if self._name == "wandb":
            import wandb

            wandb.finish()

    def _tolerate(self, call: Callable[..., object], *args: Any, **rest: Any) -> None:
        try:
            call(*args, **rest)
        except Exception as error:  # noqa: BLE001 errors of another library, of its server, or a full disk
            _log.warning("%s gets no more measurements of this stage: %s", self._name, error)
            self._callback = None


def _begin_wandb() -> None:
    """Begin the run of a stage; wandb itself reads these variables only once in a process."""
    import wandb

    names = {"id": "WANDB_RUN_ID", "name": "WANDB_NAME", "group": "WANDB_RUN_GROUP", "project": "WANDB_PROJECT"}
    given = {key: os.environ[variable] for key, variable in names.items()}
    wandb.init(**given, dir=os.environ["WANDB_DIR"], resume="allow")
