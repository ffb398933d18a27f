"""Evaluates any model with the questions of some settings, and compares it with their base model."""

from prefect import flow

from mixcpt.config import EvaluateModelConfig
from mixcpt.evaluate import TaskDelta
from tasks.hooks import HOOKS
from tasks.stages import curate, evaluate_any, open_evaluation


@flow(name="evaluate-model", flow_run_name="{config.name}: {config.model}", **HOOKS)
def evaluate_model(config: EvaluateModelConfig = EvaluateModelConfig()) -> list[TaskDelta]:  # noqa: B008
    """Evaluate a model with the questions of some settings and compare it with their base model, without training.

    Use it for an external model, a merged model, or a champion and new questions. Evaluations that are already in the
    store are not repeated.
    """
    adaptation, model = open_evaluation(config)
    return evaluate_any(adaptation, model, curate(adaptation), form=config.form)
