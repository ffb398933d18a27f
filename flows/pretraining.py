"""The flow `pretraining`: corpus and base model in, pre-trained model out."""

from prefect import flow

from mixcpt.store.artifacts import ArtifactRef
from tasks.adaptation import Adaptation
from tasks.hooks import remember_process
from tasks.pretraining import pretrain
from tasks.results import ROLES


@flow(
    name="pretraining",
    flow_run_name="{adaptation.config.name}: pretraining",
    validate_parameters=False,
    on_running=[remember_process],
)
def pretraining(adaptation: Adaptation, corpus: ArtifactRef) -> dict[str, ArtifactRef]:
    """Returns the artifacts `mixture`, `teacher` where its predictions were kept, and `pretrained`."""
    made = pretrain.with_options(retries=adaptation.config.runtime.retries)(adaptation, corpus)
    return {ROLES[name]: ref for name, ref in made.items()}
