"""The task that teaches the pre-trained model the chat form."""

from prefect import task

from mixcpt.stages.chain import alignment_jobs
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef
from tasks.adaptation import Adaptation
from tasks.stage_groups import run_stage_group, worth_retrying
from tasks.watching import Results


@task(name="select, sft and dpo", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def align(adaptation: Adaptation, corpus: ArtifactRef, pretrained: ArtifactRef) -> Results:
    """Returns the selection and the aligned models, as `select`, `sft` and `dpo`."""
    return run_stage_group(
        adaptation, alignment_jobs(adaptation, corpus, ModelRef.from_artifact(pretrained, "pretrained"))
    )
