"""The flow `evaluation`: base, pre-trained and final model in, their answers out."""

from prefect import flow

from mixcpt.artifacts import ArtifactRef
from tasks.adaptation import Adaptation
from tasks.evaluation import evaluate


@flow(name="evaluation", flow_run_name="{adaptation.config.name}: evaluation", validate_parameters=False)
def evaluation(
    adaptation: Adaptation, corpus: ArtifactRef, pretrained: ArtifactRef, final: ArtifactRef
) -> dict[str, ArtifactRef]:
    """Returns the evaluations of `base`, `pretrained` and `final`."""
    return evaluate.with_options(retries=adaptation.config.runtime.retries)(adaptation, corpus, pretrained, final)
