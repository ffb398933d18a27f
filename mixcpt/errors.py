"""Errors that mixcpt raises on purpose, each with the problem and its remedy."""

from collections.abc import Callable
from typing import ClassVar, TypeVar

_Result = TypeVar("_Result")


class MixcptError(Exception):
    """A problem that the user can solve.

    Both arguments are positional: an error is pickled between processes, and pickle restores it from `args`.

    Args:
        problem: Expected and actual state, with file, line and field if there are any.
        hint: Remedy.
    """

    retryable: ClassVar[bool] = False
    """Whether the same operation can succeed on a retry."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}\n  -> {self.hint}" if self.hint else self.problem


class ConfigError(MixcptError):
    """A setting is invalid."""


def first_known(*lookups: Callable[[], _Result]) -> _Result:
    """Return the result of the first lookup that raises no `ConfigError`.

    Raises:
        ConfigError: If every lookup fails: the problems of all lookups, and the hint of the last one.
    """
    failures: list[ConfigError] = []
    for lookup in lookups:
        try:
            return lookup()
        except ConfigError as failure:
            failures.append(failure)
    raise ConfigError("; and ".join(failure.problem for failure in failures), failures[-1].hint)


class DataError(MixcptError):
    """The user's data cannot be used."""


class ModelError(MixcptError):
    """A model or tokenizer cannot be used."""


class TrainingFailed(MixcptError):
    """A training stopped because its values are not finite or its loss diverged."""


class ArtifactError(MixcptError):
    """An artifact of the store is damaged or cannot be written."""


class StageInterrupted(MixcptError):
    """The process of a stage died before it finished; a retry resumes from its last checkpoint."""

    retryable = True


class TrackingAway(MixcptError):
    """MLflow did not answer a query that decides the next step."""

    retryable = True


BY_NAME: dict[str, type[MixcptError]] = {
    error.__name__: error
    for error in (
        MixcptError,
        ConfigError,
        DataError,
        ModelError,
        TrainingFailed,
        ArtifactError,
        StageInterrupted,
        TrackingAway,
    )
}
"""Error classes by name: a worker process reports an error to its parent by the name of its class."""
