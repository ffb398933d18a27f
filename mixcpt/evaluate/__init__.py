"""Evaluation: what a model knows and does, before and after; importable without torch.

`evaluate` asks, `compare` says what changed and how sure that is, `retention` and `drift` sum up, `known` says what the
base knew before, `check_tasks` finds files that cannot be used before any work starts.
"""

from mixcpt.evaluate.asking.tasks import check_tasks
from mixcpt.evaluate.stage import evaluate
from mixcpt.evaluate.statistics.deltas import TaskDelta, compare
from mixcpt.evaluate.statistics.prior_knowledge import Known, known
from mixcpt.evaluate.statistics.retention import Drift, Retention, drift, retention

__all__ = [
    "Drift",
    "Known",
    "Retention",
    "TaskDelta",
    "check_tasks",
    "compare",
    "drift",
    "evaluate",
    "known",
    "retention",
]
