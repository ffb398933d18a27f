"""The task that teaches the pre-trained model the chat form."""

from prefect import task

from mixcpt.artifacts import ArtifactRef
from mixcpt.models import ModelRef
from mixcpt.pipeline import alignment_jobs
from tasks.adaptation import Adaptation
from tasks.stations import run_station, worth_retrying
from tasks.watching import Results


@task(name="select, sft and dpo", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def align(adaptation: Adaptation, corpus: ArtifactRef, pretrained: ArtifactRef) -> Results:
    """Returns the selection and the aligned models, as `select`, `sft` and `dpo`."""
    return run_station(adaptation, alignment_jobs(adaptation, corpus, ModelRef.from_artifact(pretrained, "pretrained")))
