"""The stages `select`, `sft` and `dpo` for the registry of stages."""

from mixcpt.align.keys import dpo_key, selection_key, sft_key
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
