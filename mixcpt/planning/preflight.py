"""Everything that can be found wrong before any work starts."""

from collections.abc import Callable, Iterator
from functools import partial

from mixcpt.config import AdaptConfig, CorpusConfig, CurationConfig, EvaluateConfig, require_optimizer
from mixcpt.curation import check_sources
from mixcpt.errors import ConfigError, MixcptError
from mixcpt.evaluate import check_tasks
from mixcpt.mixture.tokens import require_row_fits
from mixcpt.store.models import ModelRef, require_chat_template, resolve_model


def preflight(config: AdaptConfig) -> ModelRef:
    """Returns the base model after checking sources, tasks, model, tokenizer and chat form.

    Raises:
        ConfigError: Listing every problem that was found, each with its key.
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
    """Checks the documents of a corpus, and the questions about them.

    Raises:
        ConfigError: Listing every problem that was found, each with its key.
    """
    asked = EvaluateConfig().model_copy(update={"tasks": config.tasks})
    _require_none([*check_sources(CurationConfig(sources=(config.source,))), *check_tasks(asked)])


def _require_none(problems: list[str]) -> None:
    if problems:
        count = len(problems)
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigError(f"{count} problem{'s' if count > 1 else ''} found before any work started:\n{listed}")


def _model_problems(config: AdaptConfig, base: ModelRef) -> Iterator[str]:
    needs_chat = config.align.selection.num_instructions or config.align.selection.num_preferences
    if needs_chat or config.base.chat_template:
        yield from _problem(lambda: require_chat_template(base, config.base.chat_template))
    yield from _problem(lambda: require_row_fits(config.mixture.row_tokens, base))


def _problem(check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except MixcptError as error:
        yield str(error)
