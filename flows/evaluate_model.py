"""Any model against the base of some settings: the same questions, side by side."""

from prefect import flow

from mixcpt.config import EvaluateModelConfig
from mixcpt.evaluate import TaskDelta
from tasks.any_model import ask_model, open_evaluation
from tasks.hooks import HOOKS
from tasks.stages import curate


@flow(
    name="evaluate-model",
    flow_run_name="{config.name}: {config.model}",
    **HOOKS,
)
def evaluate_model(config: EvaluateModelConfig = EvaluateModelConfig()) -> list[TaskDelta]:  # noqa: B008
    """Ask a model the questions of some settings, and hold it against their base; nothing is trained.

    For a model from elsewhere, a merge, or a champion and new questions. What has been asked before is not asked again.
    """
    asked = open_evaluation(config)
    return ask_model(asked, curate(asked.adaptation), config.form)
