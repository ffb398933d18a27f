"""Turn corpus records into plain texts and tokenise them; character offsets decide which tokens are scored.

The plain form is that of Mix-CPT, Jiang et al., arXiv 2407.10804: question, separator, answer, without chat template
and role tokens (docs/algorithms.md#knowledge-mixture).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from mixcpt.config import MixtureConfig, Pool
from mixcpt.errors import ConfigError, ModelError
from mixcpt.store.control_tokens import control_ids, split_text
from mixcpt.store.models import ModelRef, load_tokenizer

_BATCH = 500
_LENGTH_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len")
"""Names of the longest input in the configurations of different model families."""


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text to learn from, with the beginning of its scored part."""

    text: str
    scored_from: int = 0
    """Index of the first scored character; 0 scores the whole text."""


def unify(record: Mapping[str, str], pool: Pool, config: MixtureConfig) -> PlainText:
    """Return the plain text of a corpus record."""
    if pool in ("domain", "general"):
        return PlainText(record["text"])
    if pool == "instructions":
        answer = record["response"]
    elif config.preference_text == "chosen":
        answer = record["chosen"]
    else:
        answer = f"Good answer: {record['chosen']}{config.separator}Bad answer: {record['rejected']}"
    question = record["prompt"] + config.separator
    return PlainText(question + answer, len(question) if config.loss_on == "response" else 0)


@dataclass(frozen=True)
class TokenizedTexts:
    """The tokens of many texts, concatenated."""

    tokens: Int[np.ndarray, " tokens"]
    scored: Bool[np.ndarray, " tokens"]
    lengths: Int[np.ndarray, " texts"]


@dataclass(frozen=True)
class EncodedText:
    """The tokens of one text."""

    ids: Int[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " tokens"]
    """Index of the first character of every token."""


class TextTokenizer:
    """The tokenizer of a model, for plain text; `ModelError` if it cannot report the position of tokens in the text."""

    def __init__(self, model: ModelRef, *, parse_special_tokens: bool = False) -> None:
        tokenizer = self.tokenizer = load_tokenizer(model)
        if not tokenizer.is_fast:
            raise ModelError(
                f"the tokenizer of {model.path} is slow: it does not report the position of its tokens in the text",
                "save it as tokenizer.json",
            )
        self._split_special_tokens = not parse_special_tokens
        self.bos: list[int] = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.eos: list[int] = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        # 0 if the tokenizer has no padding token: padding is never scored.
        self.padding_id = int(tokenizer.pad_token_id or 0)

    def __call__(self, texts: Sequence[PlainText]) -> TokenizedTexts:
        """Return BOS, tokens and EOS of every text; tokens that end after `scored_from` are scored."""
        tokens, scored = [np.empty(0, np.int32)], [np.empty(0, np.bool_)]
        for first in range(0, len(texts), _BATCH):
            batch = texts[first : first + _BATCH]
            needs_offsets = any(text.scored_from for text in batch)
            encoded = self._tokenize([text.text for text in batch], with_offsets=needs_offsets)
            for index, text in enumerate(batch):
                ids = np.array([*self.bos, *encoded["input_ids"][index], *self.eos], np.int32)
                flags = np.ones(len(ids), np.bool_)
                if text.scored_from:
                    ends = np.array([end for _, end in encoded["offset_mapping"][index]], np.int64)
                    flags[: len(self.bos)] = False
                    flags[len(self.bos) : len(ids) - len(self.eos)] = ends > text.scored_from
                tokens.append(ids)
                scored.append(flags)
        lengths = np.array([len(ids) for ids in tokens[1:]], np.int64)
        return TokenizedTexts(np.concatenate(tokens), np.concatenate(scored), lengths)

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """Return the tokens of every text, without BOS and EOS, with their first characters."""
        encoded = self._tokenize(texts, with_offsets=True)
        return [
            EncodedText(np.array(ids, np.int32), np.array([start for start, _ in offsets], np.int64))
            for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

    def _tokenize(self, texts: Sequence[str], *, with_offsets: bool) -> Any:
        encoded: Any = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=with_offsets,
            split_special_tokens=self._split_special_tokens,
            verbose=False,
        )
        if self._split_special_tokens:
            self._split_pieces(encoded, texts)
        return encoded

    def _split_pieces(self, encoded: Any, texts: Sequence[str]) -> None:
        """Replace the tokens of texts in which a control token acts, because the vocabulary has it as a piece."""
        control = control_ids(self.tokenizer)
        for index, text in enumerate(texts):
            if not control.isdisjoint(encoded["input_ids"][index]):
                encoded["input_ids"][index], offsets = split_text(self.tokenizer, text)
                if "offset_mapping" in encoded:
                    encoded["offset_mapping"][index] = offsets


def max_input_tokens(model: ModelRef) -> int:
    """Return the maximum input length of a model in tokens; 0 if its configuration has none."""
    config = json.loads((model.directory / "config.json").read_text())
    config = {**config, **config.get("text_config", {})}
    return min((int(config[name]) for name in _LENGTH_LIMITS if config.get(name)), default=0)


def require_row_fits(row_tokens: int, model: ModelRef) -> None:
    """Raise `ConfigError` if rows are longer than the context of the model."""
    limit = max_input_tokens(model)
    if limit and row_tokens > limit:
        raise ConfigError(
            f"mixture.row_tokens is {row_tokens}, but {model.name} reads at most {limit} tokens at once",
            f"set mixture.row_tokens to {limit} or less",
        )
