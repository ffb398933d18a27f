"""Evaluation: run tasks on a model and compare the results; importable without torch.

`check_tasks` finds unusable task files before any work starts. `evaluate` publishes a model's answers, `compare`
returns the change per task with its interval, `retention` and `drift` summarize the changes, and `prior_knowledge`
compares the trained model with a base that has the document in its prompt.
"""

from mixcpt.evaluate.asking.tasks import check_tasks
from mixcpt.evaluate.stage import evaluate
from mixcpt.evaluate.statistics.deltas import TaskDelta, compare
from mixcpt.evaluate.statistics.outcomes import Drift, PriorKnowledge, Retention, drift, prior_knowledge, retention

__all__ = [
    "Drift",
    "PriorKnowledge",
    "Retention",
    "TaskDelta",
    "check_tasks",
    "compare",
    "drift",
    "evaluate",
    "prior_knowledge",
    "retention",
]
