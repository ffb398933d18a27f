"""Which value of a setting to take, by what it learned and kept on questions that nobody reports."""

from mixcpt.evaluate.summary import EvaluationSummary, TaskScore
from mixcpt.store.artifacts import ArtifactRef


def gain(base: ArtifactRef, model: ArtifactRef, task: str) -> float:
    """Returns how much better a model is at a task than the base.

    Accuracy: the difference of the shares. Bits per byte: the share of the base's bits that are saved. So both are
    near 0 where nothing has changed and near 1 at best.
    """
    before, after = _score(base, task), _score(model, task)
    difference = after.value - before.value
    return difference if after.higher_is_better else -difference / before.value


def score(base: ArtifactRef, model: ArtifactRef, *, domain: str, general: str, domain_share: float) -> float:
    """Returns domain_share * gain in the domain + (1 - domain_share) * gain in general, which often is a loss."""
    return domain_share * gain(base, model, domain) + (1 - domain_share) * gain(base, model, general)


def value_of(evaluation: ArtifactRef, task: str) -> float:
    """Returns what an evaluation measured on a task."""
    return _score(evaluation, task).value


def _score(evaluation: ArtifactRef, task: str) -> TaskScore:
    return EvaluationSummary.of(evaluation).by_task[task]
