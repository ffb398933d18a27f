"""The line from base to tuned, measured: every interpolation answers the same tasks, and one of them is chosen."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from mixcpt.config import EvaluateConfig, SweepConfig
from mixcpt.evaluate import evaluate
from mixcpt.evaluate.asking.definitions import Form
from mixcpt.evaluate.summary import EvaluationSummary, TaskScore
from mixcpt.merge.methods import interpolate
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import Tracker

_ROUNDING = 1e-9
"""A difference of exactly the tolerance is within it, whatever floating point makes of it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepPoint:
    """One interpolation and what it scored."""

    weight: float
    model: ArtifactRef
    chosen_by: Mapping[str, TaskScore]
    """By task, on the selection split."""
    scores: Mapping[str, TaskScore]
    """By task, on the report split, whose questions choose nothing."""


@dataclass(frozen=True)
class SweepReport:
    """The table of a sweep: weight -> scores."""

    points: tuple[SweepPoint, ...]
    """By rising weight."""
    domain_task: str
    """Stands for what was learned."""
    general_task: str
    """Stands for what was kept."""
    max_domain_loss: float

    @property
    def selected(self) -> SweepPoint:
        """The point that is best at the general task among those close enough to the best at the domain task."""
        best = max(point.chosen_by[self.domain_task].gain for point in self.points)
        enough = best - self.max_domain_loss - _ROUNDING
        close = [point for point in self.points if point.chosen_by[self.domain_task].gain >= enough]
        return max(close, key=self._rank)

    def _rank(self, point: SweepPoint) -> tuple[float, float, float]:
        """Returns what is compared: the general task, then the domain task, then how near the base is."""
        return point.chosen_by[self.general_task].gain, point.chosen_by[self.domain_task].gain, -point.weight


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
    """Returns what every interpolation between base and tuned scores; what the store has is not computed again.

    Args:
        config: The weights, and what decides among them.
        base: The model at weight 0.
        tuned: The model at weight 1.
        corpus: Holds the held-out documents.
        evaluation: The tasks and how their questions are split; the headline tasks decide.
        form: How every one of the models is asked.
        seed: Draws the items of tasks with a limit.
        store: Where the models, each a whole one, and their answers are kept.
        tracker: Told how far each evaluation is.

    Raises:
        ModelError: If the two cannot be merged, or are asked in chat form and have none.
        DataError: If a task has nothing to ask.
    """
    splits = [evaluation.model_copy(update={"split": split}) for split in ("selection", "report")]
    points = []
    for weight in config.weights:
        merged = interpolate(config.interpolation(weight), base, tuned, store=store)
        model = ModelRef.from_artifact(merged, f"{base.name}-{tuned.name}-{weight:g}")
        chosen_by, scores = (
            EvaluationSummary.of(
                evaluate(settings, model, corpus, form=form, seed=seed, store=store, tracker=tracker)
            ).by_task
            for settings in splits
        )
        points.append(SweepPoint(weight, merged, chosen_by, scores))
        logger.info("weight %g of %s is measured", weight, tuned.name)
    return SweepReport(tuple(points), evaluation.headline_domain, evaluation.headline_general, config.max_domain_loss)
