"""The selection score: rates the value of a setting by learning and retention on questions that no report uses."""

from mixcpt.evaluate.summary import EvaluationSummary, TaskScore
from mixcpt.store.artifacts import ArtifactRef


def gain(base: ArtifactRef, model: ArtifactRef, task: str) -> float:
    """Return the gain of a model over the base on a task: near 0 for no change and near 1 at best.

    For accuracy it is the difference, for bits per byte the saved fraction of the base's bits.
    """
    before, after = _score(base, task), _score(model, task)
    difference = after.value - before.value
    return difference if after.higher_is_better else -difference / before.value


def score(base: ArtifactRef, model: ArtifactRef, *, domain: str, general: str, domain_share: float) -> float:
    """Return domain_share * domain gain + (1 - domain_share) * general gain; the latter is often negative."""
    return domain_share * gain(base, model, domain) + (1 - domain_share) * gain(base, model, general)


def value_of(evaluation: ArtifactRef, task: str) -> float:
    """Return the value of a task in an evaluation."""
    return _score(evaluation, task).value


def _score(evaluation: ArtifactRef, task: str) -> TaskScore:
    return EvaluationSummary.of(evaluation).by_task[task]
