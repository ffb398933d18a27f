"""The sweep: evaluates interpolations between two models on the same tasks and selects one of them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from mixcpt.config import EvaluateConfig, SweepConfig
from mixcpt.evaluate import evaluate
from mixcpt.evaluate.asking.definitions import Form
from mixcpt.evaluate.summary import EvaluationSummary, TaskScore
from mixcpt.merge.methods import interpolate
from mixcpt.merge.splits import require_splits
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import Tracker

_ROUNDING = 1e-9
"""Tolerance for rounding errors, so that a loss of exactly `max_domain_loss` is accepted."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepPoint:
    """One interpolation and its scores."""

    weight: float
    model: ArtifactRef
    selection_scores: Mapping[str, TaskScore]
    """Scores on the selection split by task; these select the weight."""
    scores: Mapping[str, TaskScore]
    """Scores on the report split by task; these select nothing."""


@dataclass(frozen=True)
class SweepReport:
    """The scores of all weights."""

    points: tuple[SweepPoint, ...]
    """All points, sorted by weight."""
    domain_task: str
    """Task that stands for learning."""
    general_task: str
    """Task that stands for retention; empty if no task is general, so that forgetting was not measured."""
    max_domain_loss: float

    @property
    def selected(self) -> SweepPoint:
        """The best point on the general task, out of all points close enough to the best on the domain task.

        Without a general task it is the closest of them to the base, which changes the model least.
        """
        best = max(point.selection_scores[self.domain_task].gain for point in self.points)
        bound = best - self.max_domain_loss - _ROUNDING
        close = [point for point in self.points if point.selection_scores[self.domain_task].gain >= bound]
        return max(close, key=self._rank)

    def _rank(self, point: SweepPoint) -> tuple[float, float, float]:
        """Return the sort key: the general task, then the domain task, then closeness to the base."""
        scores = point.selection_scores
        if not self.general_task:
            return 0.0, -point.weight, 0.0
        return scores[self.general_task].gain, scores[self.domain_task].gain, -point.weight


def sweep(
    config: SweepConfig,
    base: ModelRef,
    tuned: ModelRef,
    corpus: ArtifactRef,
    evaluation: EvaluateConfig,
    *,
    form: Form,
    seed: int,
    store: ArtifactStore,
    tracker: Tracker,
) -> SweepReport:
    """Merge and evaluate every interpolation between base and tuned; finished parts are loaded from the store.

    Args:
        evaluation: The tasks and the split fractions; the headline tasks decide the selection.
        seed: Seed that draws the items of tasks with a limit.
        store: Store that the models (each of full size) and their answers are published to.

    Raises:
        ModelError: If the two cannot be merged, or lack a chat template that `form` needs.
        DataError: If a task has no items, or none in a split; no model is merged then.
    """

    require_splits(evaluation, corpus, seed=seed)

    def measure(model: ModelRef, split: str) -> EvaluationSummary:
        settings = evaluation.model_copy(update={"split": split})
        ref = evaluate(settings, model, corpus, form=form, seed=seed, store=store, tracker=tracker)
        return EvaluationSummary.of(ref)

    points, general_task = [], ""
    for weight in config.weights:
        merged = interpolate(config.interpolation(weight), base, tuned, store=store)
        model = ModelRef.from_artifact(merged, f"{base.name}-{tuned.name}-{weight:g}")
        selection, report = measure(model, "selection"), measure(model, "report")
        general_task = selection.general_headline(evaluation.headline_general)
        points.append(SweepPoint(weight, merged, selection.by_task, scores=report.by_task))
        logger.info("evaluated weight %g of %s", weight, tuned.name)
    return SweepReport(tuple(points), evaluation.headline_domain, general_task, max_domain_loss=config.max_domain_loss)
