"""The task that reads the sources and publishes the corpus."""

from prefect import task

from mixcpt.artifacts import ArtifactRef
from mixcpt.pipeline import curation_job
from tasks.adaptation import Adaptation
from tasks.stations import run_station, worth_retrying


@task(name="curate", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def curate(adaptation: Adaptation) -> ArtifactRef:
    """Returns the corpus: clean documents, instructions and preferences, and what was left out and why."""
    return run_station(adaptation, [curation_job(adaptation.config)])["curate"]
