"""The tasks of a search for a mixture: drawing its points, learning from them, its record and its page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from mixcpt.config import AdaptConfig, AdviseConfig
from mixcpt.evaluate.statistics.selection_score import score, value_of
from mixcpt.records.comparison import Comparison
from mixcpt.records.run import RunResult
from mixcpt.records.search import Advice, Attempt, save_advice
from mixcpt.report.comparison.advice import markdown_advice
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.fingerprint import fingerprint
from mixcpt.store.models import resolve_model
from tasks.stage_runs import begin_parent
from tasks.tracking import FLOW_RUN, ROOT_FLOW_RUN, Place, Tracking, forgiving, open_tracking
from tasks.trials import Trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial as Drawn

_LOGARITHMIC = ("learning_rate",)
_FIRST_AT_RANDOM = 5
"""Points before the first is drawn by what the others have shown: the settings as they are, then random ones."""


class Search:
    """A search under way: a Gaussian process over the settings, in optuna.

    Points are drawn in rounds of as many as are trained at a time, and answers told in the order of the points: the
    same settings draw the same points, so that a search that was stopped finds all it has done in the store.
    """

    def __init__(self, config: AdviseConfig, run_id: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config = config
        self.run_id = run_id
        """In MLflow; empty while it is away."""
        self.attempts: list[Attempt] = []
        sampler = optuna.samplers.GPSampler(seed=config.seed, n_startup_trials=_FIRST_AT_RANDOM)
        self._study: Study = optuna.create_study(direction="maximize", sampler=sampler)
        self._study.enqueue_trial(config.start)
        self._drawn: list[Drawn] = []

    @property
    def best(self) -> Attempt:
        """What has the highest score so far, of equal ones the first."""
        return max(self.attempts, key=lambda one: one.score)

    def draw(self) -> list[Trial]:
        """Returns the trainings of the next round; none when all are done."""
        from optuna.distributions import FloatDistribution

        space = {
            name: FloatDistribution(span.low, span.high, log=name in _LOGARITHMIC)
            for name, span in self.config.space.items()
        }
        count = min(self.config.jobs, self.config.num_trials - len(self.attempts))
        self._drawn = [self._study.ask(dict(space)) for _ in range(count)]
        return [
            Trial(str(drawn.number), drawn.params["learning_rate"], self.config.seed, self._settings(drawn))
            for drawn in self._drawn
        ]

    def learn(self, runs: Sequence[RunResult]) -> None:
        """Takes in what the trainings of the last round have reached on the selection split."""
        for drawn, run in zip(self._drawn, runs, strict=True):
            found = _attempt(drawn.params, run, self.config.domain_weight)
            self._study.tell(drawn, found.score)
            self.attempts.append(found)

    def _settings(self, drawn: "Drawn") -> AdaptConfig:
        named = {"name": f"{self.config.name}-{drawn.number}"}
        return self.config.adapt(drawn.params, split="selection").model_copy(update=named)


def begin_search(config: AdviseConfig) -> Search:
    """Returns the search with its MLflow run open; the base is resolved once, before trainings start in threads."""
    resolve_model(config.given.base)
    settings = config.identity()
    settings["settings"] = {key: value for key, value in settings["settings"].items() if key != "runtime"}
    root = str(flow_run.root_flow_run_id or flow_run.id or "")
    tags = {FLOW_RUN: str(flow_run.id or ""), ROOT_FLOW_RUN: root, "mixcpt.kind": "advice"}
    tracking = open_tracking(Place.of(config.runtime))
    run_id = begin_parent(tracking, fingerprint({"advice": settings}), f"{config.name}-search", tags, settings)
    return Search(config, run_id or "")


@task(name="publish advice")
def publish_advice(search: Search, confirmation: Comparison) -> Advice:
    """Returns the advice after publishing its record, its page and its words in Prefect and MLflow."""
    advice = Advice(search.config, tuple(search.attempts), confirmation)
    save_advice(ArtifactStore(search.config.runtime.store), advice)
    create_markdown_artifact(markdown_advice(advice), key="advice", description=search.config.name)
    _finish(open_tracking(Place.of(search.config.runtime)), search.run_id, advice)
    return advice


@forgiving
def _finish(tracking: Tracking, run_id: str, advice: Advice) -> None:
    """Completes the MLflow run of a search."""
    from mixcpt.report.comparison.advice_page import write_advice

    if not run_id:
        return
    with TemporaryDirectory() as folder:
        tracking.client.log_artifact(run_id, str(write_advice(advice, Path(folder) / "advice.html")))
    tracking.log_figures(run_id, {"best/score": advice.best.score} | dict(advice.best.point))
    tracking.client.log_text(run_id, markdown_advice(advice), "advice.md")
    tracking.client.log_dict(run_id, advice.to_json(), "advice.json")
    tracking.close(run_id, "FINISHED")


def _attempt(point: Mapping[str, float], run: RunResult, domain_weight: float) -> Attempt:
    settings, base, final = run.config.evaluate, run.evaluations["base"], run.evaluations["final"]
    domain, general = settings.headline_domain, settings.headline_general
    reached = score(base, final, domain=domain, general=general, domain_share=domain_weight)
    return Attempt(point=dict(point), domain=value_of(final, domain), general=value_of(final, general), score=reached)
