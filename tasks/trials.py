"""One training of a comparison or a search: all stages in one process, from curation to evaluations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prefect import task

from mixcpt.config import AdaptConfig, RuntimeConfig
from mixcpt.evaluate.statistics.outcomes import selection_score
from mixcpt.evaluate.summary import EvaluationSummary
from mixcpt.records.run import RunResult, save_run
from mixcpt.stages.chain import EVALUATE, alignment_jobs, by_role, curation_job, evaluation_job, pretraining_jobs
from mixcpt.stages.jobs import Job, JobOptions, Output
from mixcpt.store.fingerprint import fingerprint
from tasks.adaptation import Adaptation, open_adaptation, track
from tasks.results import assemble
from tasks.stage_groups import run_stage_group, worth_retrying
from tasks.stage_runs import begin_parent, close_run, flow_run_tags
from tasks.tracking import Place, open_tracking
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


def selection_scores(run: RunResult, domain_share: float) -> dict[str, float]:
    """Return the scores `domain`, `general` and `score` of a training that was evaluated on the selection split."""
    settings, base, final = run.config.evaluate, run.evaluations["base"], run.evaluations["final"]
    domain, general = settings.headline_domain, settings.headline_general
    scores = EvaluationSummary.of(final).by_task
    return {
        "domain": scores[domain].value,
        "general": scores[general].value,
        "score": selection_score(base, final, domain=domain, general=general, domain_share=domain_share),
    }
