"""Check early that SFT and DPO have samples that they can train on; otherwise they would fail after pre-training."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mixcpt.align.chat import context_tokens, encode_chat, load_chat_tokenizer
from mixcpt.align.selection import INSTRUCTIONS, PREFERENCES, Pool, unusable
from mixcpt.config import AdaptConfig
from mixcpt.errors import DataError
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Maximum length of a sample of one pool, with its reason."""

    pool: Pool
    stage: str
    """Name of the training: sft or dpo."""
    max_tokens: int
    setting: str
    """Key of the setting with the limit, or the words for the context length of the model."""
    context: int
    """Context length of the model in tokens; very large if it is unknown."""


@dataclass(kw_only=True)
class Usability:
    """Numbers of usable and unusable samples of a pool."""

    limit: Limit
    num_usable: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Number of unusable samples by reason, as in `unusable`."""
    shortest: int = 0
    """Length of the shortest sample that is too long, in tokens."""

    @property
    def problem(self) -> str:
        """Numbers per reason."""
        total = self.num_usable + self.skipped.total()
        pool = self.limit.pool.name
        texts = {
            "too_long": f"are longer than {self.limit.max_tokens} tokens ({self.limit.setting}); the shortest has "
            f"{self.shortest}",
            "empty_answer": "have an empty answer",
            "equal_answers": "have answers that differ only in white space at their ends",
        }
        reasons = [
            f"{number} of {total} {pool} {texts.get(reason, reason)}" for reason, number in self.skipped.most_common()
        ]
        return f"{self.limit.stage} has no {pool} to train on: " + ("; ".join(reasons) or f"no {pool} are left")

    @property
    def remedy(self) -> str:
        wanted = f"align.selection.num_{self.limit.pool.name}"
        if self.skipped["too_long"] and self.shortest <= self.limit.context:
            keys = f"align.selection.max_tokens and align.{self.limit.stage}.max_tokens"
            return (
                f"set {keys} to {self.shortest} or more, give shorter samples, or set {wanted} to 0 to skip the stage"
            )
        return f"give other samples, or set {wanted} to 0 to skip the stage"


def limits(config: AdaptConfig, base: ModelRef) -> list[Limit]:
    """Return the limits of the pools that alignment trains on."""
    selection, align = config.align.selection, config.align
    stages = [
        ("sft", INSTRUCTIONS, selection.num_instructions, align.sft.max_tokens),
        ("dpo", PREFERENCES, selection.num_preferences, align.dpo.max_tokens),
    ]
    return [
        _limit(selection.max_tokens, base, pool, stage, of_stage) for stage, pool, wanted, of_stage in stages if wanted
    ]


def _limit(of_selection: int, base: ModelRef, pool: Pool, stage: str, of_stage: int) -> Limit:
    max_tokens = min(of_selection, of_stage)
    setting = "align.selection.max_tokens" if of_selection <= of_stage else f"align.{stage}.max_tokens"
    context = context_tokens(base, sys.maxsize)
    if context < max_tokens:
        max_tokens, setting = context, "the context length of the model"
    return Limit(pool=pool, stage=stage, max_tokens=max_tokens, setting=setting, context=context)


def count_usable(
    tokenizer: PreTrainedTokenizerBase, samples: Iterable[Sequence[str]], limit: Limit, *, max_usable: int = 0
) -> Usability:
    """Return the numbers of usable and unusable samples, each a prompt with its answers.

    The count ends after `max_usable` usable ones, if that is above 0.
    """
    result = Usability(limit=limit)
    for prompt, *answers in samples:
        chats = [encode_chat(tokenizer, prompt, answer) for answer in answers]
        reason = unusable(answers, chats, limit.max_tokens)
        if not reason:
            result.num_usable += 1
            if result.num_usable == max_usable:
                break
            continue
        result.skipped[reason] += 1
        if reason == "too_long":
            longest_answer = max(chat.num_tokens for chat in chats)
            result.shortest = min(result.shortest or longest_answer, longest_answer)
    return result


def require_usable(config: AdaptConfig, base: ModelRef, corpus: ArtifactRef) -> None:
    """Raise `DataError` if a training of alignment has no usable sample in a corpus; ends at the first usable one."""
    import pandas as pd

    for limit in limits(config, base):
        tokenizer = load_chat_tokenizer(base, config.base.chat_template)
        frame = pd.read_parquet(corpus.file(f"{limit.pool.name}.parquet"), columns=["prompt", *limit.pool.answers])
        counted = count_usable(tokenizer, frame.itertuples(index=False, name=None), limit, max_usable=1)
        if not counted.num_usable:
            raise DataError(counted.problem, counted.remedy)
