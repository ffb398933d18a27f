"""The stages of an adaptation as jobs: what runs after what, with which settings and inputs; runs nothing itself."""

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

from mixcpt.config import AdaptConfig, Split
from mixcpt.stages.jobs import Input, Job, Output
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef

EVALUATE = "evaluate-"
"""What the names of evaluations begin with; the role of the model that is asked follows."""
OPEN_BOOK = "open-book"
"""Role of the base that has the document at hand."""


@runtime_checkable
class Adapting(Protocol):
    """What the jobs follow from."""

    @property
    def config(self) -> AdaptConfig: ...

    @property
    def base(self) -> ModelRef: ...


def curation_job(config: AdaptConfig) -> Job:
    """Returns the job `curate`."""
    return Job("curate", "curate", config.curation.model_dump(mode="json"), config.data_seed)


def plan_job(adaptation: Adapting, corpus: Input) -> Job:
    """Returns the job `plan`: what the run will take on this machine, reckoned without a trial."""
    config = adaptation.config
    inputs: dict[str, Input] = {"corpus": corpus, "base": adaptation.base}
    return Job("plan", "plan", config.model_dump(mode="json"), config.seed, inputs)


def pretraining_jobs(adaptation: Adapting, corpus: Input) -> list[Job]:
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


def alignment_jobs(adaptation: Adapting, corpus: Input, model: Input) -> list[Job]:
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


def preview_jobs(adaptation: Adapting, corpus: Input) -> list[Job]:
    """Returns the jobs that ask the base, in plain text: `evaluate-base`, and again with the documents at hand."""
    jobs = [evaluation_job(adaptation, corpus, "base", adaptation.base, {"form": "plain"})]
    if adaptation.config.evaluate.has_open_book:
        options = {"form": "plain", "documents": "in the prompt"}
        jobs.append(evaluation_job(adaptation, corpus, OPEN_BOOK, adaptation.base, options))
    return jobs


def evaluation_jobs(
    adaptation: Adapting, corpus: ArtifactRef, pretrained: ArtifactRef, final: ArtifactRef
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


def evaluation_job(
    adaptation: Adapting,
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
    return Job(f"{EVALUATE}{role}", "evaluate", settings.model_dump(mode="json"), config.data_seed, inputs, options)
