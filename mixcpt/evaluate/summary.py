"""Readers of a published evaluation: the scores of its tasks (`summary.json`) and the table of its answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mixcpt.evaluate.guessing import MIN_PASSAGES, is_at_chance
from mixcpt.store.artifacts import ArtifactRef, from_fields, read_object

if TYPE_CHECKING:
    from pandas import DataFrame

FILE = "summary.json"


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """Score of one model on one task."""

    task: str
    group: str
    """Group of the task: `domain` or `general`."""
    metric: str
    """Name of the metric: `accuracy` or `bits_per_byte`."""
    higher_is_better: bool
    n: int
    value: float
    """Fraction of right answers, or bits per byte."""
    stderr: float | None
    """Standard error over the items; None for a single item."""
    passages: int | None = None
    """Number of passages that the items are about; None in artifacts of earlier versions."""
    prompt_form: str = ""
    """Prompt form of this task: `plain` or `chat`; empty in artifacts of earlier versions."""
    truncated: int = 0
    """Number of prompts cut to the model's context length."""
    quarantined: int = 0
    """Number of records that could not be used."""
    chance: float | None = None
    """Expected accuracy of a random choice: the mean of 1 / number of choices, and 0 for free answers; None for bits
    per byte, and in artifacts of earlier versions."""
    kl_to_base: float | None = None
    """Drift: mean KL(base || model) in nats per token, on questions or on general text; None if it was not measured."""

    @property
    def num_passages(self) -> int:
        """Number of passages; the number of items in artifacts of earlier versions."""
        return self.n if self.passages is None else self.passages

    @property
    def has_few_passages(self) -> bool:
        """Whether the items are about too few passages for an interval."""
        return self.num_passages < MIN_PASSAGES

    @property
    def is_at_chance(self) -> bool:
        """Whether the score does not differ from guessing."""
        return is_at_chance(self.metric, self.value, self.num_passages, self.chance)

    @property
    def gain(self) -> float:
        """The value, negated if lower is better, so that a higher gain is always better."""
        return self.value if self.higher_is_better else -self.value


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """Scores of one model on all tasks of an evaluation."""

    form: Literal["plain", "chat"]
    """Prompt form of the evaluation."""
    tasks: tuple[TaskScore, ...]
    """Scores in the order of the tasks."""

    @classmethod
    def of(cls, ref: ArtifactRef) -> "EvaluationSummary":
        """Return the summary that an evaluation published."""
        data = read_object(ref, FILE)
        return cls(form=data["form"], tasks=tuple(from_fields(TaskScore, task) for task in data["tasks"]))

    @property
    def by_task(self) -> Mapping[str, TaskScore]:
        return {score.task: score for score in self.tasks}

    def general_headline(self, named: str) -> str:
        """Return the task that represents prior knowledge: the named one if it is general, else the first, else empty.

        Settings of earlier versions could name a task of the domain, which does not measure forgetting.
        """
        general = [score.task for score in self.tasks if score.group == "general"]
        return named if named in general else next(iter(general), "")


def read_answers(evaluation: ArtifactRef) -> "DataFrame":
    """Return the answers of an evaluation, one row per task and item."""
    import pandas as pd

    return pd.read_parquet(evaluation.file("items.parquet"))
