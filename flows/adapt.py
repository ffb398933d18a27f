"""The main job: documents and a base model in, a compared and registered model out.

`python -m flows.adapt CONFIG.json` runs it in this process.
"""

import sys
from pathlib import Path

from prefect import flow
from prefect.logging import get_run_logger

from flows.alignment import alignment
from flows.curation import curation
from flows.evaluation import evaluation, preview
from flows.local import run_locally
from flows.pretraining import pretraining
from mixcpt.config import AdaptConfig
from mixcpt.records.run import RunResult
from mixcpt.stages.worker import prepare_workers
from tasks.adaptation import Adaptation, open_adaptation, track
from tasks.hooks import close_as_failed, close_as_killed, one_heartbeat, remember_process
from tasks.registry import register
from tasks.reporting import prepare_report, publish
from tasks.results import assemble, final_role, find_stored_run


@flow(
    name="adapt",
    flow_run_name="{config.name}",
    on_running=[remember_process],
    on_failure=[close_as_failed],
    on_crashed=[close_as_failed],
    on_cancellation=[close_as_killed],
)
def adapt(config: AdaptConfig = AdaptConfig()) -> RunResult:  # noqa: B008 the form shows the default
    """Teach a base model a domain without losing what it knows.

    Documents are curated; the base answers the questions before anything is trained. It then reads them, mixed with
    general instructions, under a teacher that keeps what it knew; a few general samples teach it the chat form. The
    result answers the same questions and is registered in MLflow as challenger. A stage that is in the artifact store
    already is not computed again.
    """
    adaptation = open_adaptation(config)
    if stored := find_stored_run(adaptation):
        get_run_logger().info("every stage of %s is in the store already; nothing was computed", config.name)
        return stored
    prepare_workers(config.runtime)
    with one_heartbeat():
        return _adapt(track(adaptation))


def _adapt(adaptation: Adaptation) -> RunResult:
    corpus = curation(adaptation)
    evaluations = preview(adaptation, corpus)
    prepare_report()
    refs = {"corpus": corpus, **pretraining(adaptation, corpus)}
    selection = adaptation.config.align.selection
    if selection.num_instructions or selection.num_preferences:
        refs |= alignment(adaptation, corpus, refs["pretrained"])
    final = refs[final_role(refs)]
    evaluations |= evaluation(adaptation, corpus, refs["pretrained"], final)
    result = assemble(adaptation, refs, evaluations, register(adaptation, final))
    publish(adaptation, result)
    return result


def main(arguments: list[str]) -> int:
    """Returns the exit code of one adaptation."""
    config = AdaptConfig.model_validate_json(Path(arguments[0]).read_text())
    return run_locally(lambda: [adapt(config)], [config])


if __name__ == "__main__":
    from flows import adapt as module  # so that Prefect and pickles know the flow by its importable name

    raise SystemExit(module.main(sys.argv[1:]))
