"""The task that reads the sources and publishes the corpus."""

from prefect import task

from mixcpt.stages.chain import curation_job
from mixcpt.store.artifacts import ArtifactRef
from tasks.adaptation import Adaptation
from tasks.stage_groups import run_stage_group, worth_retrying


@task(name="curate", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def curate(adaptation: Adaptation) -> ArtifactRef:
    """Returns the corpus: clean documents, instructions and preferences, and what was left out and why."""
    return run_stage_group(adaptation, [curation_job(adaptation.config)])["curate"]
