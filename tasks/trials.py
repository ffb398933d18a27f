"""One training of a comparison: all of its stages in one process, from the documents to the final model's answers."""

from dataclasses import dataclass
from typing import Literal

from prefect import task

from mixcpt.config import AdaptConfig
from mixcpt.records.run import RunResult, save_run
from mixcpt.stages.chain import EVALUATE, alignment_jobs, by_role, curation_job, evaluation_job, pretraining_jobs
from mixcpt.stages.jobs import Job, JobOptions, Output
from tasks.adaptation import Adaptation, open_adaptation, track
from tasks.results import assemble
from tasks.stage_groups import run_stage_group, worth_retrying
from tasks.stage_runs import close_run
from tasks.watching import wait_until_recorded

_CORPUS = Output("curate")
SELECTION: Literal["selection"] = "selection"
"""The split whose answers choose; and what the roles of those evaluations begin with."""


@dataclass(frozen=True)
class Trial:
    """What one training is for."""

    contender: str
    value: float
    """Of the searched setting."""
    seed: int
    config: AdaptConfig
    is_reported: bool = False
    """Whether it is also asked the questions that choose between contenders, beside those of its settings."""


def trial_jobs(adaptation: Adaptation, *, is_reported: bool = False) -> list[Job]:
    """Returns everything from curation to the evaluations of base and final model."""
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
    """Returns the result of one training, tracked below the run `parent` of its comparison."""
    adaptation = track(open_adaptation(trial.config), parent)
    results = run_stage_group(adaptation, trial_jobs(adaptation, is_reported=trial.is_reported))
    evaluations = by_role({name: ref for name, ref in results.items() if name.startswith(EVALUATE)})
    refs = by_role({name: ref for name, ref in results.items() if not name.startswith(EVALUATE)})
    result = assemble(adaptation, refs, evaluations)
    save_run(adaptation.store, result)
    wait_until_recorded(adaptation)
    close_run(adaptation.tracking, adaptation.run_id, "FINISHED")
    return result
