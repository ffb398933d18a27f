"""The tasks of a comparison: its MLflow run, the choice of each contender's setting, its record and its page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run

from mixcpt.config import CompareConfig, Contender
from mixcpt.evaluate.statistics.selection_score import score, value_of
from mixcpt.records.comparison import Comparison, ContenderResult, TriedValue, save_comparison
from mixcpt.records.run import RunResult
from mixcpt.report.comparison.summary import ComparisonSummary, summarise_comparison
from mixcpt.report.comparison.text import comparison_rows, markdown_comparison
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.fingerprint import fingerprint
from mixcpt.store.models import resolve_model
from mixcpt.train.metrics import TrainingMetrics
from tasks.stage_runs import begin_parent
from tasks.tracking import FLOW_RUN, ROOT_FLOW_RUN, Place, Tracking, forgiving, open_tracking
from tasks.trials import Trial


@dataclass(frozen=True)
class OpenComparison:
    """One comparison as its tasks see it."""

    config: CompareConfig
    run_id: str = ""
    """The parent run in MLflow; empty while MLflow is away."""

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.config.runtime.store)

    @property
    def tracking(self) -> Tracking:
        return open_tracking(Place.of(self.config.runtime))


def open_comparison(config: CompareConfig) -> OpenComparison:
    """Returns the comparison with its MLflow run open.

    The base is resolved here once: trainings start in threads, and those must not race to import the libraries first.
    """
    resolve_model(config.first.base)
    settings = {key: value for key, value in config.identity().items() if key != "jobs"}
    settings["settings"] = {key: value for key, value in settings["settings"].items() if key != "runtime"}
    root = str(flow_run.root_flow_run_id or flow_run.id or "")
    tags = {FLOW_RUN: str(flow_run.id or ""), ROOT_FLOW_RUN: root, "mixcpt.kind": "comparison"}
    tracking = open_tracking(Place.of(config.runtime))
    run_id = begin_parent(tracking, fingerprint({"comparison": settings}), config.name, tags, settings)
    return OpenComparison(config, run_id or "")


def search_trials(config: CompareConfig) -> list[Trial]:
    """Returns one training for each value of each contender; none where there is nothing to choose or to measure."""
    values = [config.values(contender) for contender in config.contenders]
    if config.equal == "tokens" and all(len(tried) == 1 for tried in values):
        return []
    return [
        Trial(c.name, value, config.seeds[0], config.adapt(c, value, seed=config.seeds[0], split="selection"))
        for c, tried in zip(config.contenders, values, strict=True)
        for value in tried
    ]


def judged(config: CompareConfig, trials: Sequence[Trial], runs: Sequence[RunResult]) -> list[TriedValue]:
    """Returns what each searched training reached on the selection split."""
    found = []
    for trial, run in zip(trials, runs, strict=True):
        settings, base, final = run.config.evaluate, run.evaluations["base"], run.evaluations["final"]
        found.append(
            TriedValue(
                contender=trial.contender,
                value=trial.value,
                domain=value_of(final, settings.headline_domain),
                general=value_of(final, settings.headline_general),
                score=score(
                    base,
                    final,
                    domain=settings.headline_domain,
                    general=settings.headline_general,
                    domain_share=config.search.domain_share,
                ),
            )
        )
    return found


def chosen_values(config: CompareConfig, tried: Sequence[TriedValue]) -> dict[str, float]:
    """Returns the best value of each contender; of equal ones the first that was named."""
    found = {}
    for contender in config.contenders:
        own = [one for one in tried if one.contender == contender.name]
        found[contender.name] = max(own, key=lambda one: one.score).value if own else config.values(contender)[0]
    return found


def report_trials(config: CompareConfig, chosen: Mapping[str, float], tokens: Mapping[str, int]) -> list[Trial]:
    """Returns the trainings that are reported: every contender at its value, with every seed.

    Args:
        config: The comparison.
        chosen: The value of each contender.
        tokens: The length of each contender's training, where that is not in the settings.
    """

    def trial(contender: Contender, seed: int) -> Trial:
        value, length = chosen[contender.name], tokens.get(contender.name, 0)
        adapt = config.adapt(contender, value, seed=seed, split="report", total_tokens=length)
        return Trial(contender.name, value, seed, adapt, is_reported=True)

    return [trial(contender, seed) for contender in config.contenders for seed in config.seeds]


def equal_lengths(config: CompareConfig, trials: Sequence[Trial], runs: Sequence[RunResult]) -> dict[str, int]:
    """Returns how many tokens each contender may read so that all need as many operations as the cheapest one.

    Operations a token are those that the search counted. Empty where equal tokens are asked for.
    """
    if config.equal == "tokens":
        return {}
    per_token: dict[str, list[float]] = {}
    lengths: dict[str, int] = {}
    for trial, run in zip(trials, runs, strict=True):
        flops_per_token = TrainingMetrics.of(run.refs["pretrained"]).flops_per_token
        per_token.setdefault(trial.contender, []).append(flops_per_token)
        lengths[trial.contender] = trial.config.mixture.total_tokens
    cost = {name: mean(found) for name, found in per_token.items()}
    budget = min(cost[name] * lengths[name] for name in cost)
    return {name: round(budget / cost[name]) for name in cost}


@task(name="publish comparison")
def publish_comparison(
    contest: OpenComparison, tried: Sequence[TriedValue], trials: Sequence[Trial], runs: Sequence[RunResult]
) -> Comparison:
    """Returns the comparison after publishing its record, its page, its tables in Prefect and its figures in MLflow."""
    by_contender: dict[str, list[RunResult]] = {}
    values = {}
    for trial, run in zip(trials, runs, strict=True):
        by_contender.setdefault(trial.contender, []).append(run)
        values[trial.contender] = trial.value
    results = tuple(ContenderResult(name, values[name], tuple(of)) for name, of in by_contender.items())
    comparison = Comparison(contest.config, tuple(tried), results, contest.run_id)
    save_comparison(contest.store, comparison)
    summary = summarise_comparison(comparison)
    create_markdown_artifact(markdown_comparison(summary), key="comparison", description=contest.config.name)
    create_table_artifact(comparison_rows(summary), key="comparison-table", description=contest.config.name)
    _finish(contest.tracking, contest, comparison, summary)
    return comparison


@forgiving
def _finish(tracking: Tracking, contest: OpenComparison, comparison: Comparison, summary: ComparisonSummary) -> None:
    """Completes the MLflow run of a comparison."""
    from mixcpt.report.comparison.page import write_comparison

    if not contest.run_id:
        return
    with TemporaryDirectory() as folder:
        page = write_comparison(summary, Path(folder) / "comparison.html")
        tracking.client.log_artifact(contest.run_id, str(page))
    figures = {
        f"{row.contender}/{name}/{task}": value
        for row in summary.rows
        for task, change in row.changes.items()
        for name, value in (("value", change.value), ("delta", change.delta))
    }
    tracking.log_figures(contest.run_id, figures)
    tracking.client.log_text(contest.run_id, markdown_comparison(summary), "comparison.md")
    tracking.client.log_dict(contest.run_id, comparison.to_json(), "comparison.json")
    tracking.close(contest.run_id, "FINISHED")
