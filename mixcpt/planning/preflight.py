"""Checks of sources, tasks, model and settings before any work starts."""

from collections.abc import Callable, Iterator
from functools import partial

from mixcpt.config import AdaptConfig, CorpusConfig, CurationConfig, EvaluateConfig, require_optimizer
from mixcpt.curation.sources import check_sources
from mixcpt.errors import ConfigError, MixcptError
from mixcpt.evaluate import check_tasks
from mixcpt.mixture.tokens import require_row_fits
from mixcpt.store.models import ModelRef, require_chat_template, resolve_model


def preflight(config: AdaptConfig) -> ModelRef:
    """Check sources, tasks, optimizers, model, tokenizer and chat template, and return the base model.

    Raises:
        ConfigError: If anything is wrong. The error lists every problem with its key.
    """
    problems = [*check_sources(config.curation), *check_tasks(config.evaluate)]
    for stage in (config.pretrain, config.align.sft, config.align.dpo):
        problems += _problem(partial(require_optimizer, stage.optimizer))
    base: list[ModelRef] = []
    problems += _problem(lambda: base.append(resolve_model(config.base)))
    if base:
        problems += _model_problems(config, base[0])
    _require_none(problems)
    return base[0]


def preflight_corpus(config: CorpusConfig) -> None:
    """Check the documents of a corpus and the tasks about them.

    Raises:
        ConfigError: If anything is wrong. The error lists every problem with its key.
    """
    tasks = EvaluateConfig().model_copy(update={"tasks": config.tasks})
    _require_none([*check_sources(CurationConfig(sources=(config.source,))), *check_tasks(tasks)])


def _require_none(problems: list[str]) -> None:
    if problems:
        count = len(problems)
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigError(f"{count} problem{'s' if count > 1 else ''} found before any work started:\n{lines}")


def _model_problems(config: AdaptConfig, base: ModelRef) -> Iterator[str]:
    needs_chat = config.align.selection.num_instructions or config.align.selection.num_preferences
    if needs_chat or config.base.chat_template:
        yield from _problem(lambda: require_chat_template(base, config.base.chat_template))
    yield from _problem(lambda: require_row_fits(config.mixture.row_tokens, base))


def _problem(check: Callable[[], object]) -> Iterator[str]:
    """Yield the error of a check, if it raises one."""
    try:
        check()
    except MixcptError as error:
        yield str(error)
