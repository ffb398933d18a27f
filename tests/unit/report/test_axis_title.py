"""Titles of axes name task, metric and direction, each once."""

import pytest

from mixcpt.report.figures.tradeoff import axis_title
from mixcpt.report.summary import TaskValue


@pytest.mark.parametrize(
    ("task", "metric", "expected"),
    [
        ("domain_bits_per_byte", "bits_per_byte", "domain bits per byte (lower is better)"),
        ("general_text", "bits_per_byte", "general text, bits per byte (lower is better)"),
        ("quiz", "accuracy", "quiz, accuracy"),
    ],
)
def test_axis_names_task_and_metric_once(task: str, metric: str, expected: str) -> None:
    is_better = metric == "accuracy"
    value = TaskValue(task=task, group="domain", metric=metric, higher_is_better=is_better, n=1, value=1.0, stderr=None)
    assert axis_title(value) == expected
