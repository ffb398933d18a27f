"""The flows `preview` and `evaluation`: what the base knows before training, and what its successors know after it."""

from prefect import flow

from mixcpt.store.artifacts import ArtifactRef
from tasks.adaptation import Adaptation
from tasks.evaluation import evaluate
from tasks.evaluation import preview as ask_base
from tasks.hooks import remember_process


@flow(
    name="preview",
    flow_run_name="{adaptation.config.name}: preview",
    validate_parameters=False,
    on_running=[remember_process],
)
def preview(adaptation: Adaptation, corpus: ArtifactRef) -> dict[str, ArtifactRef]:
    """Returns the evaluations of `base`, and of `open-book` where the documents are known."""
    return ask_base.with_options(retries=adaptation.config.runtime.retries)(adaptation, corpus)


@flow(
    name="evaluation",
    flow_run_name="{adaptation.config.name}: evaluation",
    validate_parameters=False,
    on_running=[remember_process],
)
def evaluation(
    adaptation: Adaptation, corpus: ArtifactRef, pretrained: ArtifactRef, final: ArtifactRef
) -> dict[str, ArtifactRef]:
    """Returns the evaluations of `pretrained` and `final`."""
    return evaluate.with_options(retries=adaptation.config.runtime.retries)(adaptation, corpus, pretrained, final)
