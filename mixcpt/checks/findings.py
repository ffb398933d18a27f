"""Findings of the checks, and the run that is checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from mixcpt.config import AdaptConfig
from mixcpt.curation.sampling import SourceSample, sample_sources
from mixcpt.errors import MixcptError
from mixcpt.store.models import ModelRef

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Problem or warning about one setting or file."""

    problem: str
    """Actual and expected state; starts with the key of the setting, and names file, line and field."""
    remedy: str = ""
    """Action that solves the problem."""
    is_warning: bool = False
    """Whether the run can start all the same."""

    @classmethod
    def of(cls, error: MixcptError) -> Finding:
        return cls(problem=error.problem, remedy=error.hint)

    def __str__(self) -> str:
        return f"{self.problem}\n    -> {self.remedy}" if self.remedy else self.problem


@dataclass(frozen=True)
class Subject:
    """Run that is checked; expensive parts are read once and shared by the checks."""

    config: AdaptConfig
    base: ModelRef | None
    """Base model; None if its folder cannot be used."""

    @cached_property
    def needs_chat(self) -> bool:
        """Whether the run uses a chat template."""
        selection = self.config.align.selection
        return bool(selection.num_instructions or selection.num_preferences or self.config.base.chat_template)

    @cached_property
    def architecture(self) -> PretrainedConfig | None:
        """Settings of the architecture of the base model; None if they cannot be read."""
        from mixcpt.checks.loading import load_architecture

        try:
            return load_architecture(self.base) if self.base else None
        except MixcptError:
            return None

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Tokenizer of the base model with its own chat template; None if it cannot be used."""
        from mixcpt.checks.loading import load_reading_tokenizer

        try:
            return load_reading_tokenizer(self.base) if self.base else None
        except MixcptError:
            return None

    @cached_property
    def samples(self) -> list[SourceSample]:
        """Some of the records of every source."""
        return sample_sources(self.config.curation)


class Check(Protocol):
    """Yield the findings of one kind about a run."""

    def __call__(self, subject: Subject) -> Iterator[Finding]: ...
