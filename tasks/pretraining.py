"""The task that mixes the corpus and trains on it."""

from collections.abc import Sequence

from prefect import task

from mixcpt.stages.chain import pretraining_jobs
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef
from tasks.adaptation import Adaptation
from tasks.stage_groups import run_stage_group, worth_retrying
from tasks.watching import Results


@task(name="mix and pretrain", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def pretrain(adaptation: Adaptation, corpus: ArtifactRef) -> Results:
    """Returns mixture, teacher's cache and probe if any, and the pre-trained model, under the names of their jobs.

    One process does it all; with several training processes what they read is made before they start.
    """
    *preparing, training = pretraining_jobs(adaptation, corpus)
    if not adaptation.config.runtime.is_distributed:
        return run_stage_group(adaptation, [*preparing, training])
    prepared = run_stage_group(adaptation, preparing)
    return prepared | _train(adaptation, [training.resolve(prepared)])


def _train(adaptation: Adaptation, jobs: Sequence[Job]) -> Results:
    return run_stage_group(adaptation, jobs, distributed=True)
