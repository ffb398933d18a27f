"""A `Trainer` that stops, or ends at the last good checkpoint, if its values are not finite or its loss diverges."""

import logging
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from mixcpt.train.guards import PATIENCE_STEPS, DivergenceGuard, Failure, FiniteGuard, ReturnToCheckpoint
from mixcpt.train.metrics import ReturnOutcome
from mixcpt.train.suspects import Suspect, write_suspects

_log = logging.getLogger("mixcpt.train")
Divergence = Literal["stop", "return", "ignore"]
_MAX_REMEMBERED = 2 * PATIENCE_STEPS
FAILED_BATCH = "failed-batch.jsonl"
"""File of the work folder with the texts of the rows that may have caused a failure."""


class GuardedTrainer(Trainer):
    """A `Trainer` with guards. They use the losses and gradient norms that it computes in any case."""

    def __init__(
        self, *args: Any, divergence: Divergence = "stop", setting: str = "pretrain.divergence", **kwargs: Any
    ) -> None:
        """Create a trainer.

        Args:
            args: Arguments of `Trainer`.
            divergence: Reaction to a loss that diverges.
            setting: Key of the setting with this reaction, for error messages.
            kwargs: Arguments of `Trainer`.
        """
        super().__init__(*args, **kwargs)
        self.outcome: ReturnOutcome | None = None
        self._finite = FiniteGuard()
        self._reaction = divergence
        self._setting = setting
        model: Any = self.model
        self._guard = DivergenceGuard(model.config.get_text_config().vocab_size)
        self._first_loss = torch.zeros((), device=self.args.device)
        self._recent: deque[tuple[int, Mapping[str, Any]]] = deque(maxlen=_MAX_REMEMBERED)
        self.add_callback(_GuardCallback(self))

    @property
    def work_folder(self) -> Path:
        """Folder of the stage's checkpoints and logs."""
        return Path(str(self.args.output_dir)).parent

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Add the gradients of a micro-batch and return its loss; raise `TrainingFailed` if it is not finite."""
        step = self.state.global_step + 1
        self.remember(step, inputs)
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        if step == 1:
            self._first_loss += loss.detach()
        if self._reaction != "return" or self.accelerator.num_processes == 1:  # else only one process would leave
            self._require(self._finite.see("loss", loss, step))
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the norm of the gradient, before the step; raise `TrainingFailed` if it is not finite."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None:
            self._require(self._finite.see("gradient", norm, self.state.global_step + 1))
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and check the values since the last log; a log precedes every checkpoint."""
        self._require(self._finite.first())
        if "loss" in logs:
            self._check_divergence(self.window_losses(logs))
            logs = {**logs, **self.own_metrics()}
        super().log(logs, start_time)

    def own_metrics(self) -> dict[str, float]:
        """Return further metrics since the last log."""
        return {}

    def window_losses(self, logs: Mapping[str, float]) -> dict[str, float]:
        """Return the mean loss since the last log by stream; a training without streams has one with an empty name."""
        return {"": logs["loss"]}

    def first_losses(self) -> dict[str, float]:
        """Return the loss of the first step by stream."""
        return {"": self.accelerator.reduce(self._first_loss, "mean").item()}

    def remember(self, step: int, inputs: Mapping[str, Any]) -> None:
        """Keep a micro-batch for a while, to name its samples if the training fails."""
        self._recent.append((step, inputs))

    def suspects(self, first_step: int, last_step: int) -> list[Suspect]:
        """Return the texts that some steps read."""
        found = []
        tokenizer: Any = self.processing_class
        for step, inputs in self._recent:
            if first_step <= step <= last_step and tokenizer is not None:
                masks = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
                for number, (ids, mask) in enumerate(zip(inputs["input_ids"], masks, strict=True)):
                    found.append(Suspect(step=step, row=number, text=tokenizer.decode(ids[mask.bool()].tolist())))
        return found

    def rows_of_steps(self, first_step: int, last_step: int) -> str:
        """Write the texts that some steps read to the work folder, and return a text about them; empty if unknown."""
        suspects = self.suspects(first_step, last_step)
        return write_suspects(self.work_folder / FAILED_BATCH, suspects, writes=self.is_world_process_zero())

    def return_to(self, returned: ReturnToCheckpoint) -> None:
        """Load weights, step and history of a good checkpoint, and record the outcome. A collective call."""
        checkpoint = self._checkpoint(returned.step)
        self.outcome = ReturnOutcome(
            stopped_step=self.state.global_step + (0 if returned.failure.is_divergence else 1),
            total_steps=self.state.max_steps,
            kept_step=returned.step,
            reason=returned.failure.reason,
        )
        _log.warning(self.outcome.sentence)
        self._load_from_checkpoint(str(checkpoint), self.model_wrapped if self.is_fsdp_enabled else None)
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))

    def _check_divergence(self, losses: Mapping[str, float]) -> None:
        failure = self._guard.check(losses, step=self.state.global_step, total_steps=self.state.max_steps)
        if failure and self._reaction != "ignore":
            self._fail(failure)

    def _require(self, found: tuple[str, int] | None) -> None:
        if found:
            self._fail(Failure.not_finite(*found))

    def _fail(self, failure: Failure) -> None:
        rows = self.rows_of_steps(failure.first_step, failure.last_step)
        if self._reaction == "return" and self._guard.good_step:
            raise ReturnToCheckpoint(failure, self._guard.good_step)
        last = max(self.state.global_step, failure.last_step)
        # a divergence shows itself late, maybe after the rate has decayed
        rate = max(map(self.rate_of_step, range(1 if failure.is_divergence else last, last + 1)))
        raise failure.error(rate=rate, rows=rows, setting=self._setting)

    def rate_of_step(self, step: int) -> float:
        """Return the learning rate of a step; steps count from 1."""
        return self._get_learning_rate()  # type: ignore[no-any-return]

    def begin_guard(self) -> None:
        """Record the losses of the first step, to which later ones are compared."""
        self._guard.begin(self.first_losses())

    def load_guard(self, step: int) -> None:
        """Restore the memory of the guard from the checkpoint of a step."""
        self._guard.load(self._checkpoint(step))

    def save_guard(self, step: int) -> None:
        """Write the memory of the guard into the checkpoint of a step, and keep the last good checkpoint."""
        self._guard.save(self._checkpoint(step), step, writes=self.is_world_process_zero())
        if self._reaction == "return" and self._guard.good_step:
            self.state.best_model_checkpoint = str(self._checkpoint(self._guard.good_step))

    def _checkpoint(self, step: int) -> Path:
        return Path(str(self.args.output_dir)) / f"checkpoint-{step}"


class _GuardCallback(TrainerCallback):
    """Calls the guards of a trainer at the first step and at checkpoints."""

    def __init__(self, trainer: GuardedTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step:
            self._trainer.load_guard(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == 1:
            self._trainer.begin_guard()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.save_guard(state.global_step)
