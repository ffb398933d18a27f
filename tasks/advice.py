"""Tasks of a search for mixture settings: draws points, learns from their results, and publishes record and page."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from prefect import task
from prefect.artifacts import create_markdown_artifact

from mixcpt.config import AdaptConfig, AdviseConfig
from mixcpt.records.comparison import Advice, Attempt, Comparison, save_advice
from mixcpt.records.run import RunResult
from mixcpt.report.comparison.advice import markdown_advice
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import resolve_model
from tasks.comparison import Trial, begin_trials, finish_trials, selection_scores
from tasks.tracking import Place, open_tracking

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial as Point

_LOGARITHMIC = ("learning_rate",)
_NUM_STARTUP_POINTS = 5
"""Number of points before the first that depends on earlier results: the original settings, then random ones."""


class Search:
    """A search in progress: Optuna's Gaussian process over the settings.

    A round draws as many points as are trained at a time, and learns their results in the order of the points. Equal
    settings therefore draw equal points, and a search that was stopped finds its finished trainings in the store.
    """

    def __init__(self, config: AdviseConfig, run_id: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config = config
        self.run_id = run_id
        """Identifier in MLflow; empty if MLflow is unreachable."""
        self.attempts: list[Attempt] = []
        sampler = optuna.samplers.GPSampler(seed=config.seed, n_startup_trials=_NUM_STARTUP_POINTS)
        self._study: Study = optuna.create_study(direction="maximize", sampler=sampler)
        self._study.enqueue_trial(config.start)
        self._points: list[Point] = []

    @property
    def best(self) -> Attempt:
        """Attempt with the highest score; the first of equal ones."""
        return max(self.attempts, key=lambda attempt: attempt.score)

    def draw(self) -> list[Trial]:
        """Draw the points of the next round and return their trainings; an empty list ends the search."""
        from optuna.distributions import FloatDistribution

        space = {
            name: FloatDistribution(span.low, span.high, log=name in _LOGARITHMIC)
            for name, span in self.config.space.items()
        }
        count = min(self.config.jobs, self.config.num_trials - len(self.attempts))
        self._points = [self._study.ask(dict(space)) for _ in range(count)]
        return [self._trial(point) for point in self._points]

    def learn(self, runs: Sequence[RunResult]) -> None:
        """Update the search with the selection scores of the last round."""
        for point, run in zip(self._points, runs, strict=True):
            attempt = _attempt(point.params, run, self.config.domain_weight)
            self._study.tell(point, attempt.score)
            self.attempts.append(attempt)

    def _trial(self, point: "Point") -> Trial:
        name = {"name": f"{self.config.name}-{point.number}"}
        settings: AdaptConfig = self.config.adapt(point.params, split="selection").model_copy(update=name)
        value, seed = point.params["learning_rate"], self.config.seed
        return Trial(contender=str(point.number), value=value, seed=seed, config=settings)


def begin_search(config: AdviseConfig) -> Search:
    """Open the MLflow run of a search and return the search.

    The base model is resolved here, before trainings in threads would import the same libraries at the same time.
    """
    resolve_model(config.given.base)
    return Search(config, begin_trials(config.runtime, "advice", f"{config.name}-search", identity=config.identity()))


@task(name="publish advice")
def publish_advice(search: Search, confirmation: Comparison) -> Advice:
    """Publish the record, page and summary of a search in the store, Prefect and MLflow, and return the advice."""
    from mixcpt.report.comparison.advice import write_advice

    advice = Advice(search.config, tuple(search.attempts), confirmation)
    save_advice(ArtifactStore(search.config.runtime.store), advice)
    text = markdown_advice(advice)
    create_markdown_artifact(text, key="advice", description=search.config.name)
    finish_trials(
        open_tracking(Place.of(search.config.runtime)),
        search.run_id,
        "advice",
        write_page=partial(write_advice, advice),
        figures={"best/score": advice.best.score, **advice.best.point},
        text=text,
        record=advice.to_json(),
    )
    return advice


def _attempt(point: Mapping[str, float], run: RunResult, domain_weight: float) -> Attempt:
    return Attempt(point=dict(point), **selection_scores(run, domain_weight))
