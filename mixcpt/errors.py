"""The errors that mixcpt raises on purpose; each tells what was found and what to do about it."""

from collections.abc import Callable
from typing import ClassVar, TypeVar

_Found = TypeVar("_Found")


class MixcptError(Exception):
    """A problem that the reader can act on.

    Both arguments are positional so that the error survives pickling between processes.

    Args:
        problem: What was expected and what was found, naming file, line and field where there are any.
        hint: What to do about it.
    """

    retryable: ClassVar[bool] = False
    """Whether trying the same thing again can succeed."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}\n  -> {self.hint}" if self.hint else self.problem


class ConfigError(MixcptError):
    """A setting is wrong."""


def first_known(*lookups: Callable[[], _Found]) -> _Found:
    """Returns what the first of some lookups finds that knows what is asked for.

    Raises:
        ConfigError: With what each of them said, and the last one's hint, if none does.
    """
    said: list[ConfigError] = []
    for find in lookups:
        try:
            return find()
        except ConfigError as unknown:
            said.append(unknown)
    raise ConfigError("; and ".join(each.problem for each in said), said[-1].hint)


class DataError(MixcptError):
    """The user's data cannot be used."""


class ModelError(MixcptError):
    """A model or tokenizer cannot be used."""


class ArtifactError(MixcptError):
    """An artifact of the store is damaged, or one could not be written."""


class StageInterrupted(MixcptError):
    """The process of a stage died before it finished; its checkpoints are kept, so a retry resumes."""

    retryable = True


class TrackingAway(MixcptError):
    """MLflow did not answer where its answer decides what happens next."""

    retryable = True


BY_NAME: dict[str, type[MixcptError]] = {
    error.__name__: error
    for error in (MixcptError, ConfigError, DataError, ModelError, ArtifactError, StageInterrupted, TrackingAway)
}
"""How a worker process hands an error to its parent: by the name of its class."""
