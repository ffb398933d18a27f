"""Tasks of a comparison: its MLflow run, the choice of a value per contender, its record and its page."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from mixcpt.config import CompareConfig
from mixcpt.records.comparison import Comparison, ContenderResult, TriedValue, save_comparison
from mixcpt.records.run import RunResult
from mixcpt.report.comparison.summary import ComparisonSummary, summarise_comparison
from mixcpt.report.comparison.text import comparison_rows, markdown_comparison
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import resolve_model
from mixcpt.train.metrics import TrainingMetrics
from tasks.tracking import Place, Tracking, forgiving, open_tracking
from tasks.trials import Trial, begin_trials, selection_scores


@dataclass(frozen=True)
class OpenComparison:
    """A comparison in progress."""

    config: CompareConfig
    run_id: str = ""
    """Parent run in MLflow; empty if MLflow is unreachable."""

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.config.runtime.store)

    @property
    def tracking(self) -> Tracking:
        return open_tracking(Place.of(self.config.runtime))


def open_comparison(config: CompareConfig) -> OpenComparison:
    """Open the MLflow run of a comparison and return the comparison.

    The base model is resolved here, before trainings in threads would import the same libraries at the same time.
    """
    resolve_model(config.first.base)
    identity = {key: value for key, value in config.identity().items() if key != "jobs"}
    return OpenComparison(config, begin_trials(config.runtime, "comparison", config.name, identity=identity))


def search_trials(config: CompareConfig) -> list[Trial]:
    """Return one training per contender and value; none if nothing is to be chosen or measured."""
    if config.equal == "tokens" and all(len(config.values(contender)) == 1 for contender in config.contenders):
        return []
    seed, trials = config.seeds[0], []
    for contender in config.contenders:
        for value in config.values(contender):
            settings = config.adapt(contender, value, seed=seed, split="selection")
            trials.append(Trial(contender=contender.name, value=value, seed=seed, config=settings))
    return trials


def score_values(config: CompareConfig, trials: Sequence[Trial], runs: Sequence[RunResult]) -> list[TriedValue]:
    """Return the scores of the searched values on the selection split."""
    domain_share = config.search.domain_share
    return [
        TriedValue(contender=trial.contender, value=trial.value, **selection_scores(run, domain_share))
        for trial, run in zip(trials, runs, strict=True)
    ]


def chosen_values(config: CompareConfig, tried: Sequence[TriedValue]) -> dict[str, float]:
    """Return the best value per contender, the first of equal ones; its only value if nothing was searched."""
    chosen = {}
    for contender in config.contenders:
        candidates = [candidate for candidate in tried if candidate.contender == contender.name]
        best = max(candidates, key=lambda candidate: candidate.score, default=None)
        chosen[contender.name] = best.value if best else config.values(contender)[0]
    return chosen


def report_trials(config: CompareConfig, chosen: Mapping[str, float], tokens: Mapping[str, int]) -> list[Trial]:
    """Return the reported trainings: every contender with its chosen value and every seed.

    Args:
        config: Settings of the comparison.
        chosen: Chosen value by contender.
        tokens: Training tokens by contender; an absent contender keeps the tokens of its settings.
    """
    trials = []
    for contender, seed in product(config.contenders, config.seeds):
        value, total_tokens = chosen[contender.name], tokens.get(contender.name, 0)
        settings = config.adapt(contender, value, seed=seed, split="report", total_tokens=total_tokens)
        trials.append(Trial(contender=contender.name, value=value, seed=seed, config=settings, is_reported=True))
    return trials


def equal_lengths(config: CompareConfig, trials: Sequence[Trial], runs: Sequence[RunResult]) -> dict[str, int]:
    """Return the training tokens per contender at which all need as many operations as the cheapest one.

    The operations per token were counted by the search. The result is empty if the settings request equal tokens.
    """
    if config.equal == "tokens":
        return {}
    counted: defaultdict[str, list[float]] = defaultdict(list)
    tokens: dict[str, int] = {}
    for trial, run in zip(trials, runs, strict=True):
        counted[trial.contender].append(TrainingMetrics.of(run.refs["pretrained"]).flops_per_token)
        tokens[trial.contender] = trial.config.mixture.total_tokens
    flops_per_token = {name: mean(values) for name, values in counted.items()}
    budget = min(flops_per_token[name] * tokens[name] for name in tokens)
    return {name: round(budget / flops) for name, flops in flops_per_token.items()}


@task(name="publish comparison")
def publish_comparison(
    opened: OpenComparison, tried: Sequence[TriedValue], trials: Sequence[Trial], runs: Sequence[RunResult]
) -> Comparison:
    """Publish the record, page and tables of a comparison in the store, Prefect and MLflow, and return it."""
    runs_of: defaultdict[str, list[RunResult]] = defaultdict(list)
    values = {}
    for trial, run in zip(trials, runs, strict=True):
        runs_of[trial.contender].append(run)
        values[trial.contender] = trial.value
    results = tuple(ContenderResult(name, value, tuple(runs_of[name])) for name, value in values.items())
    comparison = Comparison(opened.config, tuple(tried), results, run_id=opened.run_id)
    save_comparison(opened.store, comparison)
    summary = summarise_comparison(comparison)
    create_markdown_artifact(markdown_comparison(summary), key="comparison", description=opened.config.name)
    create_table_artifact(comparison_rows(summary), key="comparison-table", description=opened.config.name)
    _finish(opened.tracking, comparison, summary)
    return comparison


@forgiving
def _finish(tracking: Tracking, comparison: Comparison, summary: ComparisonSummary) -> None:
    """Complete the MLflow run of a comparison."""
    from mixcpt.report.comparison.page import write_comparison

    if not comparison.run_id:
        return
    with TemporaryDirectory() as folder:
        page = write_comparison(summary, Path(folder) / "comparison.html")
        tracking.client.log_artifact(comparison.run_id, str(page))
    figures = {}
    for row in summary.rows:
        for task_name, change in row.changes.items():
            figures[f"{row.contender}/value/{task_name}"] = change.value
            figures[f"{row.contender}/delta/{task_name}"] = change.delta
    tracking.log_figures(comparison.run_id, figures)
    tracking.client.log_text(comparison.run_id, markdown_comparison(summary), "comparison.md")
    tracking.client.log_dict(comparison.run_id, comparison.to_json(), "comparison.json")
    tracking.close(comparison.run_id, "FINISHED")
