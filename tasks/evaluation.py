"""The tasks that ask every model the same questions: the base before training, what became of it afterwards."""

from prefect import task

from mixcpt.stages.chain import EVALUATE, evaluation_jobs, plan_job, preview_jobs
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef
from tasks.adaptation import Adaptation
from tasks.stage_groups import run_stage_group, worth_retrying
from tasks.watching import Results


@task(name="preview", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def preview(adaptation: Adaptation, corpus: ArtifactRef) -> Results:
    """Returns what the base answers, by itself and with the document at hand, before anything is trained.

    The same process reckons what the run will take: it has to load the libraries of training anyway.
    """
    plan = plan_job(adaptation, corpus)
    made = _run(adaptation, [plan, *preview_jobs(adaptation, corpus)])
    return {role: ref for role, ref in made.items() if role != plan.name}


@task(name="evaluate", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def evaluate(adaptation: Adaptation, corpus: ArtifactRef, pretrained: ArtifactRef, final: ArtifactRef) -> Results:
    """Returns the evaluations of the models `pretrained` and `final`."""
    return _run(adaptation, evaluation_jobs(adaptation, corpus, pretrained, final))


def _run(adaptation: Adaptation, jobs: list[Job]) -> Results:
    return {name.removeprefix(EVALUATE): ref for name, ref in run_stage_group(adaptation, jobs).items()}
