"""Evaluation: what a model knows and does, before and after; importable without torch.

`evaluate` asks, `compare` says what changed and how sure that is, `retention` sums up, `check_tasks` finds files that
cannot be used before any work starts.
"""

from mixcpt.evaluate.retention import Retention, retention
from mixcpt.evaluate.stage import evaluate
from mixcpt.evaluate.statistics import TaskDelta, compare
from mixcpt.evaluate.tasks import check_tasks

__all__ = ["Retention", "TaskDelta", "check_tasks", "compare", "evaluate", "retention"]
