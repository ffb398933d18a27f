"""The main flow: from documents and a base model to an evaluated and registered model."""

from contextlib import suppress

from prefect import flow
from prefect.logging import get_run_logger

from mixcpt.config import AdaptConfig
from mixcpt.config.traditional import traditional_chain
from mixcpt.errors import MixcptError
from mixcpt.records.run import RunResult, find_stored_run
from mixcpt.stages.chain import final_role
from mixcpt.stages.launching import prepare_workers
from tasks.adaptation import Adaptation, assemble, open_adaptation, track
from tasks.checking import check, count_as_checked
from tasks.hooks import HOOKS
from tasks.registry import register
from tasks.reporting import prepare_report, publish, publish_page, publish_runs_table
from tasks.stages import align, curate, evaluate, pretrain, preview


@flow(name="adapt", flow_run_name="{config.name}", **HOOKS)
def adapt(config: AdaptConfig = AdaptConfig()) -> RunResult:  # noqa: B008 the form shows the default
    """Teach a base model a domain without losing its prior knowledge.

    Documents are curated, and the base model is evaluated before training. It is then trained on the documents, mixed
    with general instructions, while a teacher preserves its knowledge; a few general samples align it to the chat
    form. The result is evaluated on the same questions and registered in MLflow as challenger. Stages that are
    already in the artifact store are not computed again.
    """
    return run_either(config)


@flow(name="with-traditional", flow_run_name="{config.name} and the traditional chain", **HOOKS)
def with_traditional(config: AdaptConfig) -> list[RunResult]:
    """Run the traditional chain and an adaptation on the same data, and show both results in one table."""
    traditional = traditional_chain(config)
    itself = config.model_copy(update={"runtime": traditional.runtime})
    if not find_finished(itself):
        check(config)
    count_as_checked(traditional, itself)
    results = [adapt(traditional), adapt(itself)]
    publish_runs_table(results)
    return results


def run_either(config: AdaptConfig) -> RunResult:
    """Run an adaptation, with the traditional chain and a page of both if the settings say so; return its result."""
    if not config.runtime.with_traditional:
        return run_adaptation(config)
    results = with_traditional(config)
    publish_page(results)
    return results[-1]


def run_adaptation(config: AdaptConfig) -> RunResult:
    """Check and run an adaptation in the present flow run; a finished one is neither checked nor run again."""
    if stored := find_finished(config):
        get_run_logger().info("every stage of %s is already in the store; nothing was computed", config.name)
        return stored
    prepare_workers(config.runtime)
    check(config)
    return _adapt(track(open_adaptation(config)))


def find_finished(config: AdaptConfig) -> RunResult | None:
    """Return the stored run of these settings; None if there is none, or if an input cannot be read."""
    with suppress(MixcptError):  # the checks list all problems
        return find_stored_run(config)
    return None


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
