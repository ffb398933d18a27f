"""The jobs of an adaptation: the order of the stages, with their settings and inputs; runs nothing itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, cast, runtime_checkable

from mixcpt.config import AdaptConfig, DpoConfig, PretrainConfig, SelectionConfig, SftConfig, Split
from mixcpt.stages.jobs import Input, Job, JobOptions, Output
from mixcpt.stages.registry import find_stage, trained_roles
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef

EVALUATE = "evaluate-"
"""Prefix of the names of evaluation jobs; the role of the evaluated model follows."""
OPEN_BOOK = "open-book"
"""Role of the base model if its prompts contain the documents of the questions."""
Aligning = TypeVar("Aligning", bound=SelectionConfig | SftConfig | DpoConfig)
RunJobs = Callable[[Sequence[Job]], dict[str, ArtifactRef]]
"""Runs jobs in order and returns their artifacts by job name."""


@runtime_checkable
class ChainInputs(Protocol):
    """The settings and the base model that determine the jobs."""

    @property
    def config(self) -> AdaptConfig: ...

    @property
    def base(self) -> ModelRef: ...


@dataclass(frozen=True, kw_only=True)
class ChainResult:
    """Artifacts of a whole chain."""

    refs: dict[str, ArtifactRef] = field(default_factory=dict)
    """Artifacts by role; a skipped stage is absent."""
    evaluations: dict[str, ArtifactRef] = field(default_factory=dict)
    """Evaluations by the role of the evaluated model."""


def run_chain(adaptation: ChainInputs, run: RunJobs) -> ChainResult:
    """Run all jobs of an adaptation in order, each part as soon as its inputs exist, and return their artifacts."""
    refs = by_role(run([curation_job(adaptation.config)]))
    corpus = refs["corpus"]
    evaluations = by_role(run(preview_jobs(adaptation, corpus)))
    refs |= by_role(run(pretraining_jobs(adaptation, corpus)))
    pretrained = ModelRef.from_artifact(refs["pretrained"], "pretrained")
    refs |= by_role(run(alignment_jobs(adaptation, corpus, pretrained)))
    final = refs[final_role(refs)]
    evaluations |= by_role(run(evaluation_jobs(adaptation, corpus, refs["pretrained"], final)))
    return ChainResult(refs=refs, evaluations=evaluations)


def by_role(results: dict[str, ArtifactRef]) -> dict[str, ArtifactRef]:
    """Return artifacts of jobs by their role in a run: that of the stage, or of the evaluated model."""
    return {role_of(name): ref for name, ref in results.items()}


def role_of(job_name: str) -> str:
    """Return the role in a run of the artifact of a job."""
    return job_name.removeprefix(EVALUATE) if job_name.startswith(EVALUATE) else find_stage(job_name).role


def final_role(refs: dict[str, ArtifactRef]) -> str:
    """Return the role of the last trained model."""
    return next(role for role in reversed(trained_roles()) if role in refs)


def curation_job(config: AdaptConfig) -> Job:
    """Return the job `curate`."""
    return Job(name="curate", stage="curate", config=config.curation.model_dump(mode="json"), seed=config.data_seed)


def plan_job(adaptation: ChainInputs, corpus: Input) -> Job:
    """Return the job `plan`, which estimates the cost of the run on this machine by formulas."""
    config = adaptation.config
    inputs: dict[str, Input] = {"corpus": corpus, "base": adaptation.base}
    return Job(name="plan", stage="plan", config=config.model_dump(mode="json"), seed=config.seed, inputs=inputs)


def pretraining_jobs(adaptation: ChainInputs, corpus: Input) -> list[Job]:
    """Return the jobs `rewrite` (if there are forms), `mix`, `cache` (for a cached teacher), `probe` (for a promise of
    retention) and `pretrain`.
    """
    config, base = adaptation.config, adaptation.base
    settings = config.pretrain.model_dump(mode="json")
    inputs: dict[str, Input] = {"mixture": Output("mix"), "base": base}
    jobs = []
    if config.rewrite.forms:
        jobs.append(_rewriting_job(adaptation, corpus))
        corpus = Output("rewrite")
    mixing = config.mixture.model_dump(mode="json") | {"method": settings["method"]}
    sources: dict[str, Input] = {"corpus": corpus, "base": base}
    jobs.append(Job(name="mix", stage="mix", config=mixing, seed=config.seed, inputs=sources))
    if config.pretrain.uses_cache:
        jobs.append(Job(name="cache", stage="cache", config=settings, seed=config.seed, inputs=dict(inputs)))
        inputs["cache"] = Output("cache")
    if config.promised_tasks:
        jobs.append(_probe_job(adaptation, corpus))
        inputs["probe"] = Output("probe")
    options = replace(_reporting(config), sharding=config.runtime.sharding)
    training = Job(name="pretrain", stage="pretrain", config=settings, seed=config.seed, inputs=inputs, options=options)
    return [*jobs, training]


def _rewriting_job(adaptation: ChainInputs, corpus: Input) -> Job:
    config = adaptation.config
    inputs: dict[str, Input] = {"corpus": corpus, "base": adaptation.base}
    settings = config.rewrite.model_dump(mode="json")
    return Job(name="rewrite", stage="rewrite", config=settings, seed=config.data_seed, inputs=inputs)


def _reporting(config: AdaptConfig) -> JobOptions:
    """Return the options that make a training report to other tools than MLflow."""
    return JobOptions(reporters=config.tracking.also, run=config.name) if config.tracking.also else JobOptions()


def _probe_job(adaptation: ChainInputs, corpus: Input) -> Job:
    config = adaptation.config
    settings = {
        "evaluate": config.evaluate.model_dump(mode="json"),
        "retention": config.pretrain.retention.model_dump(mode="json"),
        "tasks": list(config.promised_tasks),
    }
    inputs: dict[str, Input] = {"base": adaptation.base, "corpus": corpus}
    return Job(name="probe", stage="probe", config=settings, seed=config.data_seed, inputs=inputs)


def alignment_jobs(adaptation: ChainInputs, corpus: Input, model: Input) -> list[Job]:
    """Return the jobs `select`, `sft` and `dpo` for a pre-trained model, without the stages that settings skip."""
    align, seed = adaptation.config.align, adaptation.config.seed
    options = JobOptions(chat_template=adaptation.config.base.chat_template)
    if not (align.selection.num_instructions or align.selection.num_preferences):
        return []
    selection: dict[str, Input] = {"corpus": corpus, "model": model}
    settings = with_precision(align.selection, adaptation.config.pretrain).model_dump(mode="json")
    jobs = [Job(name="select", stage="select", config=settings, seed=seed, inputs=selection, options=options)]
    sharding, template = adaptation.config.runtime.sharding, adaptation.config.base.chat_template
    training_options = replace(_reporting(adaptation.config), sharding=sharding, chat_template=template)

    def add(name: str, config: SftConfig | DpoConfig, model: Input) -> None:
        inputs: dict[str, Input] = {"selection": Output("select"), "model": model}
        settings = with_precision(config, adaptation.config.pretrain).model_dump(mode="json")
        jobs.append(Job(name=name, stage=name, config=settings, seed=seed, inputs=inputs, options=training_options))

    if align.selection.num_instructions:
        add("sft", align.sft, model)
        model = Output("sft", as_model=True)
    if align.selection.num_preferences:
        add("dpo", align.dpo, model)
    return jobs


def with_precision(stage: Aligning, pretrain: PretrainConfig) -> Aligning:
    """Return the settings of a stage of alignment with bf16 if it computes in bf16, else `pretrain`.

    In a job, `pretrain` stands for fp32, so that the keys of results from before this setting stay equal.
    """
    precision = pretrain.precision if stage.precision == "pretrain" else stage.precision
    return cast(Aligning, stage.model_copy(update={"precision": "bf16" if precision == "bf16" else "pretrain"}))


def preview_jobs(adaptation: ChainInputs, corpus: Input) -> list[Job]:
    """Return the jobs that evaluate the base model in plain form, without and with the documents in its prompts."""
    jobs = [evaluation_job(adaptation, corpus, "base", adaptation.base)]
    if adaptation.config.evaluate.has_open_book:
        options = JobOptions(with_documents=True)
        jobs.append(evaluation_job(adaptation, corpus, OPEN_BOOK, adaptation.base, options=options))
    return jobs


def evaluation_jobs(
    adaptation: ChainInputs, corpus: ArtifactRef, pretrained: ArtifactRef, final: ArtifactRef
) -> list[Job]:
    """Return the jobs `evaluate-pretrained` and `evaluate-final`.

    The pre-trained model is evaluated in plain form, the final one in the form that it was aligned to.
    """
    form = adaptation.config.evaluate.aligned_form if final != pretrained else "plain"
    forms = {"pretrained": (pretrained, JobOptions()), "final": (final, JobOptions(form=form))}
    return [
        evaluation_job(adaptation, corpus, role, ModelRef.from_artifact(ref, role), options=options)
        for role, (ref, options) in forms.items()
    ]


def evaluation_job(
    adaptation: ChainInputs,
    corpus: Input,
    role: str,
    model: Input,
    *,
    options: JobOptions = JobOptions(),  # noqa: B008 frozen
    split: Split | None = None,
) -> Job:
    """Return the job that evaluates the model of a role on all tasks; a trained one is also compared with the base.

    Without `split`, the questions have the split of the settings.
    """
    evaluate, seed = adaptation.config.evaluate, adaptation.config.data_seed
    settings = (evaluate.model_copy(update={"split": split}) if split else evaluate).model_dump(mode="json")
    inputs: dict[str, Input] = {"model": model, "corpus": corpus}
    if evaluate.kl_to_base and model != adaptation.base:
        inputs["reference"] = adaptation.base
    name = f"{EVALUATE}{role}"
    return Job(name=name, stage="evaluate", config=settings, seed=seed, inputs=inputs, options=options)
