"""Settings of a run from the short form: from the model, the documents and a preset."""

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent

from prefect.artifacts import create_markdown_artifact

from mixcpt.checks.defaults import batch_rows
from mixcpt.checks.model_size import model_size
from mixcpt.cli.fields import find_sources
from mixcpt.cli.questions import question_tasks
from mixcpt.cli.starter import Starter, Wanted, starter
from mixcpt.config import (
    AdaptConfig,
    BaseModelConfig,
    BitsPerByteTask,
    EvaluateConfig,
    Pool,
    QuickRun,
    Source,
    Task,
)
from mixcpt.config.presets import AUTOMATIC, load_preset
from mixcpt.config.writing import to_yaml
from mixcpt.errors import ConfigError

_OPTION = re.compile(r"--(?=(?:model|documents|questions|instructions|preferences)\b)")
"""Options of the command line, which are fields of the form."""
_HELDOUT = BitsPerByteTask(name="domain_bits_per_byte", group="domain", heldout_pool="domain")


def settings_of(form: QuickRun) -> AdaptConfig:
    """Return the settings of a run, and publish them as an artifact of the flow run.

    Raises:
        ConfigError: If a file or the preset cannot be used.
    """
    settings = own_run(form)
    text = to_yaml(settings.config, only_set=True, reasons=settings.reasons)
    hint = "The settings of this run, for `mixcpt run`, `mixcpt plan` or the folder `presets` of the store:"
    markdown = f"{hint}\n\n{indent(text, '    ')}"
    create_markdown_artifact(markdown, key="settings", description=f"{form.name}: settings that follow from the form")
    return settings.config


def own_run(form: QuickRun) -> Starter:
    """Return the settings that follow from a short form, with the reasons for chosen values.

    Raises:
        ConfigError: If a file or the preset cannot be used.
    """
    try:
        settings = _automatic(form) if form.preset == AUTOMATIC else Starter(_from_preset(form))
    except ConfigError as error:
        raise ConfigError(_OPTION.sub("", error.problem), _OPTION.sub("", error.hint)) from None
    config, reasons = settings.config, dict(settings.reasons)
    if form.total_tokens:
        reasons["mixture.total_tokens"] = "given in the form"
        config = _resized(config, form.total_tokens)
    places = {"store": form.store, "gpu_pool": form.gpu_pool, "with_traditional": form.with_traditional}
    given = {name: value for name, value in places.items() if value}
    config = _changed(config, name=form.name, runtime=config.runtime.model_copy(update=given))
    return Starter(config, reasons)


def _automatic(form: QuickRun) -> Starter:
    wanted = Wanted(
        name=form.name,
        model=form.model,
        documents=form.documents,
        instructions=form.instructions,
        preferences=form.preferences,
        questions=[Path(path).expanduser() for path in form.questions],
        store=form.store,
    )
    return starter(wanted)


def _from_preset(form: QuickRun) -> AdaptConfig:
    """Return the settings of the preset with the model and the files of the form."""
    preset = load_preset(form.preset, form.store)
    sources = preset.curation.sources
    for pool, paths in _files(form).items():
        if paths:
            _require_use(preset, form.preset, pool)
            sources = (*(source for source in sources if source.pool != pool), *find_sources(pool, paths, f"--{pool}"))
    curation = preset.curation.model_copy(update={"sources": tuple(_with_unique_names(sources))})
    base = _base(form.model) if form.model not in ("", preset.base.model) else preset.base
    return _changed(preset, base=base, curation=curation, evaluate=_evaluation(preset, form))


def _files(form: QuickRun) -> dict[Pool, list[str]]:
    return {"domain": form.documents, "instructions": form.instructions, "preferences": form.preferences}


def _require_use(preset: AdaptConfig, name: str, pool: Pool) -> None:
    """Raise `ConfigError` if the preset uses no text of a pool."""
    weight = getattr(preset.mixture.weights, pool)
    if not weight and not getattr(preset.align.selection, f"num_{pool}", 0):
        problem = f"{pool}: the preset {name} uses none, so these files would have no effect"
        raise ConfigError(problem, f"leave {pool} empty, or choose the preset {AUTOMATIC}")


def _with_unique_names(sources: Sequence[Source]) -> list[Source]:
    """Return the sources with a number after every name that an earlier source has."""
    named: dict[str, Source] = {}
    for source in sources:
        name, number = source.name, 2
        while name in named:
            name, number = f"{source.name}-{number}", number + 1
        named[name] = source.model_copy(update={"name": name})
    return list(named.values())


def _base(model: str) -> BaseModelConfig:
    """Return a base model, with a chat template if it has none."""
    base = BaseModelConfig(model=model)
    has_template = model_size(base).has_chat_template is not False
    return base if has_template else BaseModelConfig(model=model, chat_template="plain")


def _evaluation(preset: AdaptConfig, form: QuickRun) -> EvaluateConfig:
    """Return the tasks of the preset, without tasks about its own documents if the form has others."""
    evaluate = preset.evaluate
    if not form.documents and not form.questions:
        return evaluate
    kept = [task for task in evaluate.tasks if not form.documents or _fits_other_documents(task)]
    about_domain = [task for task in kept if task.group == "domain"] or [_HELDOUT]
    questions = [task for task, _ in question_tasks([Path(path).expanduser() for path in form.questions])]
    tasks = (*questions, *about_domain, *(task for task in kept if task.group == "general"))
    headline = (*questions, *about_domain)[0].name
    given = {name: getattr(evaluate, name) for name in evaluate.model_fields_set}
    return EvaluateConfig.model_validate({**given, "tasks": tasks, "headline_domain": headline})


def _fits_other_documents(task: Task) -> bool:
    """Return whether a task makes sense for other documents than the ones of its preset."""
    is_heldout = task.kind == "bits_per_byte" and not task.path and not task.source
    return task.group == "general" or is_heldout


def _resized(config: AdaptConfig, total_tokens: int) -> AdaptConfig:
    """Return the settings with another length of the training, and fewer rows per step if it becomes short."""
    mixture = config.mixture.model_copy(update={"total_tokens": total_tokens})
    if config.runtime.is_distributed:
        return _changed(config, mixture=mixture)
    rows = min(config.pretrain.batch_rows, batch_rows(total_tokens, mixture.row_tokens).value)
    micro = min(config.pretrain.micro_batch_rows, rows)
    pretrain = config.pretrain.model_copy(update={"batch_rows": rows, "micro_batch_rows": micro})
    return _changed(config, mixture=mixture, pretrain=pretrain)


def _changed(config: AdaptConfig, **changes: object) -> AdaptConfig:
    """Return the settings with some changes, checked again."""
    given = {name: getattr(config, name) for name in config.model_fields_set}
    return AdaptConfig.model_validate({**given, **changes})
