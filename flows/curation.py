"""The flow `curation`: sources in, corpus out."""

from prefect import flow

from mixcpt.store.artifacts import ArtifactRef
from tasks.adaptation import Adaptation
from tasks.curation import curate
from tasks.hooks import remember_process


@flow(
    name="curation",
    flow_run_name="{adaptation.config.name}: curation",
    validate_parameters=False,
    on_running=[remember_process],
)
def curation(adaptation: Adaptation) -> ArtifactRef:
    """Returns the corpus."""
    return curate.with_options(retries=adaptation.config.runtime.retries)(adaptation)
