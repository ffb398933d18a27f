"""The main flow: from documents and a base model to an evaluated and registered model."""

from prefect import flow
from prefect.logging import get_run_logger

from mixcpt.config import AdaptConfig
from mixcpt.records.run import RunResult, find_stored_run
from mixcpt.stages.chain import final_role
from mixcpt.stages.launching import prepare_workers
from tasks.adaptation import Adaptation, assemble, open_adaptation, track
from tasks.hooks import HOOKS
from tasks.registry import register
from tasks.reporting import prepare_report, publish
from tasks.stages import align, curate, evaluate, pretrain, preview


@flow(name="adapt", flow_run_name="{config.name}", **HOOKS)
def adapt(config: AdaptConfig = AdaptConfig()) -> RunResult:  # noqa: B008 the form shows the default
    """Teach a base model a domain without losing its prior knowledge.

    Documents are curated, and the base model is evaluated before training. It is then trained on the documents, mixed
    with general instructions, while a teacher preserves its knowledge; a few general samples align it to the chat
    form. The result is evaluated on the same questions and registered in MLflow as challenger. Stages that are
    already in the artifact store are not computed again.
    """
    adaptation = open_adaptation(config)
    if stored := find_stored_run(config, adaptation.base):
        get_run_logger().info("every stage of %s is already in the store; nothing was computed", config.name)
        return stored
    prepare_workers(config.runtime)
    return _adapt(track(adaptation))


def _adapt(adaptation: Adaptation) -> RunResult:
    corpus = curate(adaptation)
    evaluations = preview(adaptation, corpus)
    prepare_report()
    refs = {"corpus": corpus, **pretrain(adaptation, corpus)}
    selection = adaptation.config.align.selection
    if selection.num_instructions or selection.num_preferences:
        refs |= align(adaptation, corpus, refs["pretrained"])
    final = refs[final_role(refs)]
    evaluations |= evaluate(adaptation, corpus, refs["pretrained"], final)
    result = assemble(adaptation, refs, evaluations, register(adaptation, final))
    publish(adaptation, result)
    return result
