"""The flow `alignment`: pre-trained model in, model that speaks the chat form out."""

from prefect import flow

from mixcpt.store.artifacts import ArtifactRef
from tasks.adaptation import Adaptation
from tasks.alignment import align
from tasks.hooks import remember_process


@flow(
    name="alignment",
    flow_run_name="{adaptation.config.name}: alignment",
    validate_parameters=False,
    on_running=[remember_process],
)
def alignment(adaptation: Adaptation, corpus: ArtifactRef, pretrained: ArtifactRef) -> dict[str, ArtifactRef]:
    """Returns the artifacts `selection`, `sft` and `dpo`, without those that the settings skip."""
    made = align.with_options(retries=adaptation.config.runtime.retries)(adaptation, corpus, pretrained)
    names = {"select": "selection", "sft": "sft", "dpo": "dpo"}
    return {names[name]: ref for name, ref in made.items()}
