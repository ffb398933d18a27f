"""The task that teaches the pre-trained model the chat form."""

from prefect import task

from mixcpt.artifacts import ArtifactRef
from mixcpt.jobs import Input, Job, Output
from mixcpt.models import ModelRef
from tasks.adaptation import Adaptation
from tasks.stations import run_station, worth_retrying
from tasks.watching import Results


def alignment_jobs(adaptation: Adaptation, corpus: Input, model: Input) -> list[Job]:
    """Returns the jobs `select`, `sft` and `dpo` for a pre-trained model, without those that the settings skip."""
    config = adaptation.config
    selection = config.align.selection
    template = {"chat_template": config.base.chat_template}
    settings = selection.model_dump(mode="json")
    jobs = [Job("select", "select", settings, config.seed, {"corpus": corpus, "model": model}, template)]
    if selection.num_instructions:
        inputs = {"selection": Output("select"), "model": model}
        jobs.append(Job("sft", "sft", config.align.sft.model_dump(mode="json"), config.seed, inputs, template))
        model = Output("sft", as_model=True)
    if selection.num_preferences:
        inputs = {"selection": Output("select"), "model": model}
        jobs.append(Job("dpo", "dpo", config.align.dpo.model_dump(mode="json"), config.seed, inputs, template))
    return jobs if len(jobs) > 1 else []


@task(name="select, sft and dpo", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def align(adaptation: Adaptation, corpus: ArtifactRef, pretrained: ArtifactRef) -> Results:
    """Returns the selection and the aligned models, as `select`, `sft` and `dpo`."""
    return run_station(adaptation, alignment_jobs(adaptation, corpus, ModelRef.from_artifact(pretrained, "pretrained")))
