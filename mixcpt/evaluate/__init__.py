"""Evaluation: what a model knows and does, before and after; importable without torch.

`evaluate` asks, `compare` says what changed and how sure that is, `retention` and `drift` sum up, `known` says what the
base knew before, `check_tasks` finds files that cannot be used before any work starts.
"""

from mixcpt.evaluate.gate import Known, known
from mixcpt.evaluate.retention import Drift, Retention, drift, retention
from mixcpt.evaluate.stage import evaluate
from mixcpt.evaluate.statistics import TaskDelta, compare
from mixcpt.evaluate.tasks import check_tasks

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
