"""Whether a promise about what may be lost was kept, on questions that did not steer the training."""

from dataclasses import dataclass

from mixcpt.evaluate import TaskDelta
from mixcpt.records.run import RunResult
from mixcpt.report import words
from mixcpt.train.metrics import TrainingMetrics


@dataclass(frozen=True)
class Promise:
    """One skill of which no more than so much should be lost."""

    task: str
    max_loss: float
    """As a share of the questions."""
    change: TaskDelta
    """Of the model that the promise was about, or of what later stages made of it, against the base."""
    after: str
    """`pre-training`, which kept the promise itself, or `alignment`, which knew nothing of it."""
    share_of_change: float
    """How much of what training had changed was left in the end, to keep the promise: 1 is all of it."""

    @property
    def is_kept(self) -> bool:
        return is_kept(self.change.delta, self.max_loss)


def is_kept(delta: float, max_loss: float) -> bool:
    """Returns whether a change of a share loses no more than promised; exactly as much is allowed."""
    return -delta <= max_loss + 1e-9


def promises(run: RunResult, changes: dict[str, dict[str, TaskDelta]]) -> list[Promise]:
    """Returns what became of a run's promises.

    Args:
        run: The run.
        changes: By role (`pretrained`, `final`) and task.
    """
    kept = TrainingMetrics.of(run.refs["pretrained"]).retention if run.config.promised_tasks else None
    if kept is None:
        return []
    stages = {"pretrained": "pre-training", "final": "pre-training" if run.final == "pretrained" else "alignment"}
    return [
        Promise(task, run.config.pretrain.retention.max_loss, of[task], stages[role], kept.share_of_change)
        for task in run.config.promised_tasks
        for role, of in changes.items()
    ]


def promise_verdict(promise: Promise, confidence: float) -> str:
    """Returns one sentence: what was promised, and whether it was kept."""
    change, limit = promise.change, words.change("accuracy", -promise.max_loss)
    found = (
        f"{words.title(promise.task)} after {promise.after}: {words.change('accuracy', change.delta)} points "
        f"({words.level(confidence)} interval {words.interval('accuracy', change.low, change.high)}), "
        f"promised {limit} at worst: {'kept' if promise.is_kept else 'broken'}"
    )
    if promise.share_of_change < 1:
        found += f"; to keep it, {words.percent(promise.share_of_change)} of what training had changed was left"
    return f"{found}."
