"""The tasks that ask every model the same questions and say what changed."""

from typing import Literal

from prefect import task

from mixcpt.artifacts import ArtifactRef
from mixcpt.jobs import Input, Job
from mixcpt.models import ModelRef
from tasks.adaptation import Adaptation
from tasks.stations import Results, run_station, worth_retrying

PREFIX = "evaluate-"


def evaluation_jobs(
    adaptation: Adaptation, corpus: ArtifactRef, pretrained: ArtifactRef, final: ArtifactRef
) -> list[Job]:
    """Returns one job a model: `evaluate-base`, `evaluate-pretrained`, `evaluate-final`.

    Base and pre-trained model are asked in plain text; the final one in the form it was aligned to.
    """
    aligned = final != pretrained
    return [
        _job(adaptation, corpus, "base", adaptation.base, "plain"),
        _job(adaptation, corpus, "pretrained", ModelRef.from_artifact(pretrained, "pretrained"), "plain"),
        _job(
            adaptation,
            corpus,
            "final",
            ModelRef.from_artifact(final, "final"),
            adaptation.config.evaluate.aligned_form if aligned else "plain",
        ),
    ]


@task(name="evaluate", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def evaluate(adaptation: Adaptation, corpus: ArtifactRef, pretrained: ArtifactRef, final: ArtifactRef) -> Results:
    """Returns the evaluations of the models `base`, `pretrained` and `final`."""
    results = run_station(adaptation, evaluation_jobs(adaptation, corpus, pretrained, final))
    return {name.removeprefix(PREFIX): ref for name, ref in results.items()}


def _job(
    adaptation: Adaptation, corpus: ArtifactRef, role: str, model: ModelRef, form: Literal["plain", "chat"]
) -> Job:
    config = adaptation.config
    inputs: dict[str, Input] = {"model": model, "corpus": corpus}
    return Job(
        f"{PREFIX}{role}", "evaluate", config.evaluate.model_dump(mode="json"), config.seed, inputs, {"form": form}
    )
