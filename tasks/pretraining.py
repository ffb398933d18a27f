"""The task that mixes the corpus and trains on it."""

from collections.abc import Sequence

from prefect import task

from mixcpt.artifacts import ArtifactRef
from mixcpt.jobs import Job, Output
from tasks.adaptation import Adaptation
from tasks.stations import Results, run_station, worth_retrying


def pretraining_jobs(adaptation: Adaptation, corpus: ArtifactRef) -> list[Job]:
    """Returns the jobs `mix` and `pretrain`."""
    config, base = adaptation.config, adaptation.base
    return [
        Job("mix", "mix", config.mixture.model_dump(mode="json"), config.seed, {"corpus": corpus, "base": base}),
        Job(
            "pretrain",
            "pretrain",
            config.pretrain.model_dump(mode="json"),
            config.seed,
            {"mixture": Output("mix"), "base": base},
        ),
    ]


@task(name="mix and pretrain", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def pretrain(adaptation: Adaptation, corpus: ArtifactRef) -> Results:
    """Returns the mixture and the pre-trained model, as `mix` and `pretrain`.

    One process does both; with several training processes the mixture is made before they start.
    """
    jobs = pretraining_jobs(adaptation, corpus)
    if adaptation.config.runtime.num_processes == 1:
        return run_station(adaptation, jobs)
    mixed = run_station(adaptation, jobs[:1])
    return mixed | _train(adaptation, [jobs[1].resolve(mixed)])


def _train(adaptation: Adaptation, jobs: Sequence[Job]) -> Results:
    return run_station(adaptation, jobs, num_processes=adaptation.config.runtime.num_processes)
