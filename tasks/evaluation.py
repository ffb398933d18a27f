"""The tasks that ask every model the same questions: the base before training, what became of it afterwards."""

from collections.abc import Mapping
from typing import Literal

from prefect import task

from mixcpt.artifacts import ArtifactRef
from mixcpt.config import Split
from mixcpt.jobs import Input, Job
from mixcpt.models import ModelRef
from tasks.adaptation import Adaptation
from tasks.stations import run_station, worth_retrying
from tasks.watching import Results

PREFIX = "evaluate-"
OPEN_BOOK = "open-book"
"""Role of the base that has the document at hand."""


def preview_jobs(adaptation: Adaptation, corpus: ArtifactRef) -> list[Job]:
    """Returns the jobs that ask the base, in plain text: `evaluate-base`, and again with the documents at hand."""
    jobs = [evaluation_job(adaptation, corpus, "base", adaptation.base, {"form": "plain"})]
    if adaptation.config.evaluate.has_open_book:
        options = {"form": "plain", "documents": "in the prompt"}
        jobs.append(evaluation_job(adaptation, corpus, OPEN_BOOK, adaptation.base, options))
    return jobs


def evaluation_jobs(
    adaptation: Adaptation, corpus: ArtifactRef, pretrained: ArtifactRef, final: ArtifactRef
) -> list[Job]:
    """Returns one job a trained model: `evaluate-pretrained` and `evaluate-final`.

    The pre-trained model is asked in plain text; the final one in the form it was aligned to.
    """
    form: Literal["plain", "chat"] = adaptation.config.evaluate.aligned_form if final != pretrained else "plain"
    models = {"pretrained": (pretrained, "plain"), "final": (final, form)}
    return [
        evaluation_job(adaptation, corpus, role, ModelRef.from_artifact(ref, role), {"form": asked_form})
        for role, (ref, asked_form) in models.items()
    ]


@task(name="preview", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def preview(adaptation: Adaptation, corpus: ArtifactRef) -> Results:
    """Returns what the base answers, by itself and with the document at hand, before anything is trained."""
    return _run(adaptation, preview_jobs(adaptation, corpus))


@task(name="evaluate", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def evaluate(adaptation: Adaptation, corpus: ArtifactRef, pretrained: ArtifactRef, final: ArtifactRef) -> Results:
    """Returns the evaluations of the models `pretrained` and `final`."""
    return _run(adaptation, evaluation_jobs(adaptation, corpus, pretrained, final))


def _run(adaptation: Adaptation, jobs: list[Job]) -> Results:
    return {name.removeprefix(PREFIX): ref for name, ref in run_station(adaptation, jobs).items()}


def evaluation_job(
    adaptation: Adaptation,
    corpus: Input,
    role: str,
    model: Input,
    options: Mapping[str, str],
    *,
    split: Split | None = None,
) -> Job:
    """Returns the job that asks one model everything; a trained one is also held against the base.

    Args:
        adaptation: Whose settings are followed.
        corpus: Holds the held-out documents.
        role: What the answers are for.
        model: Who is asked.
        options: The prompt form.
        split: Which questions, where not those of the settings.
    """
    config = adaptation.config
    settings = config.evaluate.model_copy(update={"split": split}) if split else config.evaluate
    inputs: dict[str, Input] = {"model": model, "corpus": corpus}
    if config.evaluate.kl_to_base and model != adaptation.base:
        inputs["reference"] = adaptation.base
    return Job(f"{PREFIX}{role}", "evaluate", settings.model_dump(mode="json"), config.data_seed, inputs, options)
