"""Results of retention promises, on questions that did not control the training."""

from dataclasses import dataclass
from itertools import product

from mixcpt.evaluate import TaskDelta
from mixcpt.records.run import RunResult
from mixcpt.report import words
from mixcpt.train.metrics import TrainingMetrics


@dataclass(frozen=True, kw_only=True)
class Promise:
    """Promise that the loss on one task is at most `max_loss`, with the measured change."""

    task: str
    max_loss: float
    """Maximum loss as a fraction of the questions."""
    change: TaskDelta
    """Change from the base, of the pre-trained or the final model."""
    after: str
    """`pre-training`, which enforces the promise, or `alignment`, which does not."""
    share_of_change: float
    """Fraction of the trained weight change that was kept to fulfil the promise; 1 means all of it."""

    @property
    def is_kept(self) -> bool:
        return is_kept(self.change.delta, self.max_loss)


def is_kept(delta: float, max_loss: float) -> bool:
    """Return whether a change in accuracy loses at most `max_loss`, up to rounding errors."""
    return -delta <= max_loss + 1e-9


def promises(run: RunResult, changes: dict[str, dict[str, TaskDelta]]) -> list[Promise]:
    """Return the promises of a run with the measured changes.

    Args:
        run: The run.
        changes: Changes from the base by role (`pretrained`, `final`) and task.
    """
    training = TrainingMetrics.of(run.refs["pretrained"]).retention if run.config.promised_tasks else None
    if training is None:
        return []
    after = {"pretrained": "pre-training", "final": "pre-training" if run.final == "pretrained" else "alignment"}
    return [
        Promise(
            task=task,
            max_loss=run.config.pretrain.retention.max_loss,
            change=changes[role][task],
            after=after[role],
            share_of_change=training.share_of_change,
        )
        for task, role in product(run.config.promised_tasks, changes)
    ]


def promise_verdict(promise: Promise, confidence: float) -> str:
    """Return the promise and its result as one sentence."""
    change, limit = promise.change, words.change("accuracy", -promise.max_loss)
    sentence = (
        f"{words.title(promise.task)} after {promise.after}: {words.change('accuracy', change.delta)} points "
        f"({words.level(confidence)} interval {words.interval('accuracy', change.low, change.high)}), "
        f"promised at least {limit}: {'kept' if promise.is_kept else 'broken'}"
    )
    if promise.share_of_change < 1:
        sentence += f"; {words.percent(promise.share_of_change)} of the trained weight change was kept to fulfil it"
    return f"{sentence}."
