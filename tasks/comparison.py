"""Tasks of a comparison: its trainings, the choice of a value per contender, and its record, page and MLflow run."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypedDict

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from mixcpt.config import AdaptConfig, CompareConfig, RuntimeConfig
from mixcpt.evaluate.statistics.outcomes import selection_score
from mixcpt.evaluate.summary import EvaluationSummary
from mixcpt.records.comparison import Comparison, ContenderResult, TriedValue, save_comparison
from mixcpt.records.run import RunResult, save_run
from mixcpt.report.comparison.page import comparison_rows, markdown_comparison
from mixcpt.report.comparison.summary import ComparisonSummary, summarise_comparison
from mixcpt.report.summary import general_headline
from mixcpt.stages.chain import EVALUATE, alignment_jobs, by_role, curation_job, evaluation_job, pretraining_jobs
from mixcpt.stages.jobs import Job, JobOptions, Output
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.fingerprint import fingerprint
from mixcpt.store.models import resolve_model
from mixcpt.train.metrics import TrainingMetrics
from tasks.adaptation import Adaptation, assemble, open_adaptation, track
from tasks.stage_groups import run_stage_group, worth_retrying
from tasks.stage_runs import begin_parent, close_run, flow_run_tags
from tasks.tracking import Place, Tracking, forgiving, open_tracking
from tasks.watching import wait_until_recorded

_CORPUS = Output("curate")
SELECTION: Literal["selection"] = "selection"
"""Split whose answers decide choices, and prefix of the roles of its evaluations."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Settings of one training."""

    contender: str
    value: float
    """Value of the searched setting."""
    seed: int
    config: AdaptConfig
    is_reported: bool = False
    """Whether the models are also evaluated on the selection split, in addition to the split of the settings."""


def begin_trials(runtime: RuntimeConfig, kind: str, name: str, *, identity: Mapping[str, Any]) -> str:
    """Open the MLflow run of a comparison or a search, and return its id; empty if MLflow is unreachable."""
    common = {key: value for key, value in identity["settings"].items() if key != "runtime"}
    settings = {**identity, "settings": common}
    tracking, tags = open_tracking(Place.of(runtime)), {**flow_run_tags(), "mixcpt.kind": kind}
    return begin_parent(tracking, fingerprint({kind: settings}), name, tags=tags, params=settings) or ""


@forgiving
def finish_trials(
    tracking: Tracking,
    run_id: str,
    name: str,
    *,
    write_page: Callable[[Path], Path],
    figures: Mapping[str, float],
    text: str,
    record: Mapping[str, Any],
) -> None:
    """Complete the MLflow run of a comparison or a search: its page, figures, text and record."""
    if not run_id:
        return
    with TemporaryDirectory() as folder:
        tracking.client.log_artifact(run_id, str(write_page(Path(folder) / f"{name}.html")))
    tracking.log_figures(run_id, figures)
    tracking.client.log_text(run_id, text, f"{name}.md")
    tracking.client.log_dict(run_id, dict(record), f"{name}.json")
    tracking.close(run_id, "FINISHED")


def trial_jobs(adaptation: Adaptation, *, is_reported: bool = False) -> list[Job]:
    """Return all jobs of a training, from curation to the evaluations of base and final model."""
    config = adaptation.config
    trained = pretraining_jobs(adaptation, _CORPUS)
    aligned = alignment_jobs(adaptation, _CORPUS, Output("pretrain", as_model=True))
    form = config.evaluate.aligned_form if aligned else "plain"
    final = Output((aligned or trained)[-1].name, as_model=True)
    base_job = evaluation_job(adaptation, _CORPUS, "base", adaptation.base)
    options = JobOptions(form=form)
    evaluations = [evaluation_job(adaptation, _CORPUS, "final", final, options=options)]
    if is_reported:
        evaluations += [
            evaluation_job(adaptation, _CORPUS, f"{SELECTION}-base", adaptation.base, split=SELECTION),
            evaluation_job(adaptation, _CORPUS, f"{SELECTION}-final", final, options=options, split=SELECTION),
        ]
    return [curation_job(config), base_job, *trained, *aligned, *evaluations]


@task(
    name="trial",
    task_run_name="{trial.contender}, {trial.value:g}, seed {trial.seed}",
    retry_condition_fn=worth_retrying,
    retry_delay_seconds=5,
)
def run_trial(trial: Trial, parent: str) -> RunResult:
    """Run one training, tracked below the run `parent` of its comparison, and return its result."""
    adaptation = track(open_adaptation(trial.config), parent)
    results = run_stage_group(adaptation, trial_jobs(adaptation, is_reported=trial.is_reported))
    evaluations = by_role({name: ref for name, ref in results.items() if name.startswith(EVALUATE)})
    refs = by_role({name: ref for name, ref in results.items() if not name.startswith(EVALUATE)})
    result = assemble(adaptation, refs, evaluations)
    save_run(adaptation.store, result)
    wait_until_recorded(adaptation)
    close_run(adaptation.tracking, adaptation.run_id, "FINISHED")
    return result


class SelectionScores(TypedDict):
    """Scores of one training on the selection split."""

    domain: float
    general: float | None
    score: float


def selection_scores(run: RunResult, domain_share: float) -> SelectionScores:
    """Return the scores of a training that was evaluated on the selection split; `general` is None if no task is."""
    base, final = run.evaluations["base"], run.evaluations["final"]
    domain, general = run.config.evaluate.headline_domain, general_headline(run)
    scores = EvaluationSummary.of(final).by_task
    return {
        "domain": scores[domain].value,
        "general": scores[general].value if general else None,
        "score": selection_score(base, final, domain=domain, general=general, domain_share=domain_share),
    }


@dataclass(frozen=True)
class OpenComparison:
    """A comparison in progress."""

    config: CompareConfig
    run_id: str = ""
    """Parent run in MLflow; empty if MLflow is unreachable."""


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

    A contender that is absent in `tokens` keeps the training tokens of its settings.
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
    from mixcpt.report.comparison.page import write_comparison

    runs_of: defaultdict[str, list[RunResult]] = defaultdict(list)
    values = {}
    for trial, run in zip(trials, runs, strict=True):
        runs_of[trial.contender].append(run)
        values[trial.contender] = trial.value
    results = tuple(ContenderResult(name, value, tuple(runs_of[name])) for name, value in values.items())
    comparison = Comparison(opened.config, tuple(tried), results, run_id=opened.run_id)
    save_comparison(ArtifactStore(opened.config.runtime.store), comparison)
    summary = summarise_comparison(comparison)
    text = markdown_comparison(summary)
    create_markdown_artifact(text, key="comparison", description=opened.config.name)
    create_table_artifact(comparison_rows(summary), key="comparison-table", description=opened.config.name)
    finish_trials(
        open_tracking(Place.of(opened.config.runtime)),
        opened.run_id,
        "comparison",
        write_page=partial(write_comparison, summary),
        figures=_figures(summary),
        text=text,
        record=comparison.to_json(),
    )
    return comparison


def _figures(summary: ComparisonSummary) -> dict[str, float]:
    figures = {}
    for row in summary.rows:
        for task_name, change in row.changes.items():
            figures[f"{row.contender}/value/{task_name}"] = change.value
            figures[f"{row.contender}/delta/{task_name}"] = change.delta
    return figures
