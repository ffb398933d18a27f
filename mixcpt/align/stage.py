"""The stages `select`, `sft` and `dpo` for the registry of stages."""

from mixcpt.align.keys import finetuning_key, selection_key
from mixcpt.config import DpoConfig, SelectionConfig, SftConfig
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.spool import Tracker


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


def finetuning_job_key(job: Job) -> StageKey:
    """Return the key of the model of a job `sft` or `dpo`."""
    selection, model = job.artifact("selection"), job.model("model")
    return finetuning_key(_finetuning_config(job), selection, model, job.options.chat_template, seed=job.seed)


def run_finetuning_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `sft` or `dpo`."""
    from mixcpt.align.finetune import finetune

    config, template = _finetuning_config(job), job.options.chat_template
    selection, model = job.artifact("selection"), job.model("model")
    sharding = job.options.sharding
    return finetune(config, selection, model, template, seed=job.seed, store=store, tracker=tracker, sharding=sharding)


def _finetuning_config(job: Job) -> SftConfig | DpoConfig:
    return SftConfig.model_validate(job.config) if job.stage == "sft" else DpoConfig.model_validate(job.config)
