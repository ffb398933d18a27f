"""Check of the tokens of a tokenizer against the embeddings of its model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mixcpt.checks.findings import Finding, Subject
from mixcpt.checks.loading import load_reading_tokenizer
from mixcpt.errors import MixcptError
from mixcpt.store.models import ModelRef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = ("config.json", "generation_config.json")
_ROLES = ("bos_token_id", "eos_token_id", "pad_token_id")


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of the tokenizer."""
    base, tokenizer = subject.base, subject.tokenizer
    if not base:
        return
    if tokenizer is None:
        yield from _loading_problem(base)
        return
    if not tokenizer.is_fast:
        yield Finding(
            problem=f"base.model: the tokenizer of {base.path} does not report the position of its tokens in the text",
            remedy="save it as tokenizer.json",
        )
    if subject.architecture and (rows := int(subject.architecture.get_text_config().vocab_size)):
        yield from _vocabulary_problems(base, tokenizer, rows)
        yield from _number_problems(base, rows)
    if tokenizer.eos_token_id is None:
        yield Finding(
            problem=f"base.model: the tokenizer of {base.path} has no end-of-text token (eos_token), "
            f"so {'generation could not stop' if subject.needs_chat else 'documents have no mark at their end'}",
            remedy=f"set eos_token in {base.directory / 'tokenizer_config.json'}",
            is_warning=not subject.needs_chat,
        )


def _loading_problem(base: ModelRef) -> Iterator[Finding]:
    try:
        load_reading_tokenizer(base)
    except MixcptError as error:
        yield Finding(problem=f"base.model: {error.problem}", remedy=error.hint)


def _vocabulary_problems(base: ModelRef, tokenizer: PreTrainedTokenizerBase, rows: int) -> Iterator[Finding]:
    """Yield a problem if text can contain a token past the end of the embeddings."""
    past_end = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    if past_end:
        number, token = past_end[-1]
        yield Finding(
            problem=f"base.model: the tokenizer of {base.path} has {len(past_end)} tokens past the end of the "
            f"embeddings, such as {token!r} with id {number}; the embeddings have {rows} rows",
            remedy="use the tokenizer that the model was trained with; if you added tokens to it, call "
            "model.resize_token_embeddings and save the model",
        )


def _number_problems(base: ModelRef, rows: int) -> Iterator[Finding]:
    """Yield a problem for each id of a special token in a configuration that is past the end of the embeddings."""
    for name in _FILES:
        try:
            data = json.loads((base.directory / name).read_text(encoding="utf-8"))
            numbers = {role: data[role] for role in _ROLES if role in data}
        except (OSError, ValueError, TypeError, RecursionError):
            continue  # generation_config.json is optional
        for role, value in numbers.items():
            past_end = [number for number in (value if isinstance(value, list) else [value]) if _is_past(number, rows)]
            if past_end:
                yield Finding(
                    problem=f"base.model: {base.directory / name} has {role}: {past_end[0]}, "
                    f"and the embeddings have {rows} rows",
                    remedy=f"set {role} to the id of the token in the tokenizer",
                )


def _is_past(number: object, rows: int) -> bool:
    return isinstance(number, int) and number >= rows
