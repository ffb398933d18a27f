"""Where an answer ends: by a token, or by words that a chat template closes an answer with."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import GenerationConfig, PreTrainedTokenizerBase

_QUESTION, _ANSWER = "a question", "the answer to it"


@dataclass(frozen=True)
class Endings:
    """What ends an answer."""

    token_ids: tuple[int, ...]
    """The model's own end tokens, the tokenizer's, and the one that the chat template writes behind an answer."""
    text: str = ""
    """What the template writes behind an answer in ordinary text, where no single token stands there; often empty."""


def find_endings(tokenizer: PreTrainedTokenizerBase, own: GenerationConfig | None) -> Endings:
    """Returns what ends an answer of a model whose generation settings are `own`.

    A base model that learned a chat form stops at a token (`<|im_end|>`) that its own settings often do not name.
    """
    declared = own.eos_token_id if own else None
    ids = {tokenizer.eos_token_id, *(declared if isinstance(declared, list) else [declared])} - {None}
    closing = _behind_an_answer(tokenizer) if tokenizer.chat_template else ""
    tokens = sorted(_marks(tokenizer), key=len, reverse=True)  # the longest first: one may begin another
    if token := next((token for token in tokens if closing.startswith(token)), ""):
        ids.add(tokenizer.convert_tokens_to_ids(token))
        closing = ""
    return Endings(tuple(sorted(ids)), _until(closing, tokens).strip())


def _behind_an_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False)).rpartition(_ANSWER)[2].lstrip()


def _marks(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Returns the texts that are one token wherever they stand."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return {mark for mark in added | set(tokenizer.all_special_tokens) if mark.strip()}


def _until(text: str, marks: Sequence[str]) -> str:
    """Returns what stands before the first of the marks."""
    return text[: min((place for mark in marks if (place := text.find(mark)) >= 0), default=len(text))]
