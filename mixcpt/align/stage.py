"""The identities of a selection and of the models after SFT and DPO, computed without torch and transformers."""

from typing import Literal

from mixcpt.align.chat import template_digest
from mixcpt.config import DpoConfig, SelectionConfig, SftConfig
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import Tracker

_SELECTION_VERSION = 1
_FINETUNING_VERSION = 2


def selection_key(
    config: SelectionConfig, corpus: ArtifactRef, model: ModelRef, chat_template: str, *, seed: int
) -> StageKey:
    """Return the key of a selection."""
    return StageKey(
        kind="selection",
        version=_SELECTION_VERSION,
        settings={"config": config, "seed": seed, "chat_template": template_digest(model, chat_template)},
        inputs={"corpus": corpus.digest, "model": model.digest},
    )


def sft_key(config: SftConfig, selection: ArtifactRef, model: ModelRef, chat_template: str, *, seed: int) -> StageKey:
    """Return the key of `model` after SFT."""
    return _finetuning_key("sft", config, selection, model, chat_template=chat_template, seed=seed)


def dpo_key(config: DpoConfig, selection: ArtifactRef, model: ModelRef, chat_template: str, *, seed: int) -> StageKey:
    """Return the key of `model` after DPO."""
    return _finetuning_key("dpo", config, selection, model, chat_template=chat_template, seed=seed)


def _finetuning_key(
    stage: Literal["sft", "dpo"],
    config: SftConfig | DpoConfig,
    selection: ArtifactRef,
    model: ModelRef,
    *,
    chat_template: str,
    seed: int,
) -> StageKey:
    return StageKey(
        kind="model",
        version=_FINETUNING_VERSION,
        settings={
            "stage": stage,
            "config": config,
            "seed": seed,
            "chat_template": template_digest(model, chat_template),
        },
        inputs={"selection": selection.digest, "model": model.digest},
    )


def select_job_key(job: Job) -> StageKey:
    """Return the key of the selection of a job."""
    config, template = SelectionConfig.model_validate(job.config), job.options.chat_template
    return selection_key(config, job.artifact("corpus"), job.model("model"), template, seed=job.seed)


def run_select_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `select`."""
    from mixcpt.align.selection import select

    config, template = SelectionConfig.model_validate(job.config), job.options.chat_template
    corpus, model = job.artifact("corpus"), job.model("model")
    return select(config, corpus, model, template, seed=job.seed, store=store, tracker=tracker)


def sft_job_key(job: Job) -> StageKey:
    """Return the key of the model of a job `sft`."""
    config, template = SftConfig.model_validate(job.config), job.options.chat_template
    return sft_key(config, job.artifact("selection"), job.model("model"), template, seed=job.seed)


def run_sft_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `sft`."""
    from mixcpt.align.finetune import sft

    config, template = SftConfig.model_validate(job.config), job.options.chat_template
    selection, model = job.artifact("selection"), job.model("model")
    return sft(config, selection, model, template, seed=job.seed, store=store, tracker=tracker)


def dpo_job_key(job: Job) -> StageKey:
    """Return the key of the model of a job `dpo`."""
    config, template = DpoConfig.model_validate(job.config), job.options.chat_template
    return dpo_key(config, job.artifact("selection"), job.model("model"), template, seed=job.seed)


def run_dpo_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `dpo`."""
    from mixcpt.align.finetune import dpo

    config, template = DpoConfig.model_validate(job.config), job.options.chat_template
    selection, model = job.artifact("selection"), job.model("model")
    return dpo(config, selection, model, template, seed=job.seed, store=store, tracker=tracker)
