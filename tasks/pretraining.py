"""The task that mixes the corpus and trains on it."""

from collections.abc import Sequence

from prefect import task

from mixcpt.artifacts import ArtifactRef
from mixcpt.jobs import Input, Job, Output
from tasks.adaptation import Adaptation
from tasks.stations import run_station, worth_retrying
from tasks.watching import Results


def pretraining_jobs(adaptation: Adaptation, corpus: Input) -> list[Job]:
    """Returns the jobs `mix`, `cache` where the teacher is one, `probe` for a promise, and `pretrain`."""
    config, base = adaptation.config, adaptation.base
    mixture = config.mixture.model_dump(mode="json") | {"method": config.pretrain.method.model_dump(mode="json")}
    settings = config.pretrain.model_dump(mode="json")
    jobs = [Job("mix", "mix", mixture, config.seed, {"corpus": corpus, "base": base})]
    inputs: dict[str, Input] = {"mixture": Output("mix"), "base": base}
    if config.pretrain.uses_cache:
        jobs.append(Job("cache", "cache", settings, config.seed, dict(inputs)))
        inputs["cache"] = Output("cache")
    if config.promised_tasks:
        asked = {
            "evaluate": config.evaluate.model_dump(mode="json"),
            "retention": settings["retention"],
            "tasks": list(config.promised_tasks),
        }
        jobs.append(Job("probe", "probe", asked, config.data_seed, {"base": base, "corpus": corpus}))
        inputs["probe"] = Output("probe")
    options = {"sharding": config.runtime.sharding}
    return [*jobs, Job("pretrain", "pretrain", settings, config.seed, inputs, options)]


@task(name="mix and pretrain", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def pretrain(adaptation: Adaptation, corpus: ArtifactRef) -> Results:
    """Returns mixture, teacher's cache and probe if any, and the pre-trained model, under the names of their jobs.

    One process does it all; with several training processes what they read is made before they start.
    """
    *preparing, training = pretraining_jobs(adaptation, corpus)
    if not adaptation.config.runtime.is_distributed:
        return run_station(adaptation, [*preparing, training])
    prepared = run_station(adaptation, preparing)
    return prepared | _train(adaptation, [training.resolve(prepared)])


def _train(adaptation: Adaptation, jobs: Sequence[Job]) -> Results:
    return run_station(adaptation, jobs, distributed=True)
