"""Control tokens act only if a chat template writes them; in the text of a sample or a question they are text.

A guarded text has a placeholder for every control token in a sample's own words, so a template can be rendered with it.
Placeholders and stand-ins for the template's tokens are characters of the two private planes of Unicode.
"""

from __future__ import annotations

import copy
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLACEHOLDERS, _STAND_INS = 0x100000, 0xF0000
"""First characters of the two private planes; each has 65,534."""
_BREAK = chr(_STAND_INS + 0xFFFD)
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_PROBE = ("ping", "pong")
"""Question and answer of the dialogue that shows which tokens a template writes."""
_TURN_MARKS = frozenset(
    {"<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|eot_id|>", "<|start_header_id|>"}
    | {"<|end_header_id|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "[INST]", "[/INST]"}
)
"""Usual marks of turns; as added tokens they control, although some tokenizers do not declare them special."""


def guarded(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a sample's own words with placeholders in place of control tokens."""
    return _control(tokenizer).guard(text)


def readable(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a guarded text without placeholders."""
    return text.translate(_control(tokenizer).restored)


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a guarded text: control tokens act, and placeholders become the text that they replace.

    Without a placeholder these are the tokens of the plain text.
    """
    control = _control(tokenizer)
    if control.placeholders.search(text):
        if tokenizer.is_fast:
            return control.split_ids(text)
        text = text.translate(control.restored)  # `acts_unbidden` finds what acts
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text in which no control token acts, as in the mixture."""
    return token_ids(tokenizer, guarded(tokenizer, text))


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that a plain text may not have, as in the mixture; `split_text` avoids them."""
    return _control(tokenizer).ids_in_text


def split_text(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the tokens of a text and their first and last characters; each control token is broken in two.

    A vocabulary can have a control token as an ordinary piece, as Unigram models do, which `split_special_tokens` does
    not split. The chat template plays no part.
    """
    control = _control(tokenizer)
    text = text.translate(dict.fromkeys(control.text_splitter.private, _UNKNOWN))
    ids, offsets = control.text_splitter.encode(text)
    acting = [span for token, span in zip(ids, offsets, strict=True) if token in control.ids_in_text]
    breaks = [end - len(text[start:end].lstrip()) + 1 for start, end in acting if text[start:end].strip()]
    if not breaks:
        return ids, offsets
    pieces = [text[start:end] for start, end in pairwise((0, *breaks, len(text)))]
    ids, offsets = control.text_splitter.encode(_BREAK.join(pieces))
    places = [place + index for index, place in enumerate(breaks)]
    spans = [tuple(character - bisect_left(places, character) for character in span) for span in offsets]
    whole = zip(control.text_splitter.originals_of(ids), spans, strict=True)
    return _unzipped([(token, (start, end)) for token, (start, end) in whole if token is not None])


def _unzipped(pairs: Sequence[tuple[int, tuple[int, int]]]) -> tuple[list[int], list[tuple[int, int]]]:
    return [token for token, _ in pairs], [span for _, span in pairs]


def acts_unbidden(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> bool:
    """Return whether the tokens of a guarded text have more control tokens than the text itself."""
    control = _control(tokenizer)
    return sum(token in control.ids for token in ids) > len(control.literals.findall(text))


def dialogue(prompt: str, *response: str) -> list[dict[str, str]]:
    """Return the question as a user turn and the answer, if there is one, as an assistant turn."""
    return [{"role": "user", "content": prompt}, *({"role": "assistant", "content": text} for text in response)]


def ends_answer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template writes a control token after an answer, so that generation stops there."""
    return _control(tokenizer).ends_answer


@dataclass(frozen=True, eq=False)
class _Control:
    """Control tokens of a tokenizer: special tokens, marks of turns, and added tokens that its chat template writes."""

    tokenizer: PreTrainedTokenizerBase
    tokens: tuple[Any, ...]
    """Control tokens with their flags."""
    ends_answer: bool

    @cached_property
    def names(self) -> list[str]:
        return [token.content for token in self.tokens]

    @cached_property
    def ids(self) -> frozenset[int]:
        """Ids of the tokens, except the one that stands for unknown text."""
        return frozenset(_ids_of(self.tokenizer, self.names)) - {self.tokenizer.unk_token_id}

    @cached_property
    def ids_in_text(self) -> frozenset[int]:
        """Ids of the tokens that may not act in plain text; none depends on the chat template."""
        return frozenset(_ids_of(self.tokenizer, [token.content for token in self._tokens_in_text])) & self.ids

    @cached_property
    def text_splitter(self) -> _Splitter:
        return _Splitter.of(self.tokenizer, self._tokens_in_text)

    @property
    def _tokens_in_text(self) -> list[Any]:
        named = {*self.tokenizer.all_special_tokens, *_TURN_MARKS}
        return [token for token in self.tokens if len(token.content) > 1 and (token.special or token.content in named)]

    @cached_property
    def literals(self) -> re.Pattern[str]:
        longest_first = sorted(self.names, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @cached_property
    def placeholders(self) -> re.Pattern[str]:
        last = _PLACEHOLDERS + max(len(self.tokens) - 1, 0)
        return re.compile(f"[{chr(_PLACEHOLDERS)}-{chr(last)}]")

    @cached_property
    def restored(self) -> dict[int, str]:
        """Text of every placeholder."""
        return {_PLACEHOLDERS + index: name for index, name in enumerate(self.names)}

    def guard(self, text: str) -> str:
        return self._marked(text, _PLACEHOLDERS)

    @cached_property
    def broken(self) -> dict[int, str]:
        """Text of every placeholder, with a break after its first character."""
        return {mark: f"{name[0]}{_BREAK}{name[1:]}" for mark, name in self.restored.items()}

    def split_ids(self, text: str) -> list[int]:
        """Return the tokens of a text with placeholders, by a copy of the tokenizer that splits control tokens.

        The template's tokens have stand-ins, which the copy does not split. If the vocabulary has a control token of
        the sample as an ordinary piece, as Unigram models do, it is broken in two.
        """
        splitter = self._splitter
        text = self._marked(text.translate(dict.fromkeys(splitter.private, _UNKNOWN)), _STAND_INS)
        ids = splitter.split(text.translate(self.restored))
        if not self.ids.isdisjoint(ids):
            ids = splitter.split(text.translate(self.broken))
        return splitter.without_stand_ins(ids)

    def _marked(self, text: str, first: int) -> str:
        """Return the text with characters from `first` on in place of the control tokens."""
        return self.literals.sub(lambda match: chr(first + self.names.index(match.group())), text)

    @cached_property
    def _splitter(self) -> _Splitter:
        return _Splitter.of(self.tokenizer, self.tokens)


@dataclass(frozen=True, eq=False)
class _Splitter:
    """Copy of a tokenizer that splits control tokens and knows their stand-ins."""

    tokenizer: PreTrainedTokenizerBase
    private: tuple[int, ...]
    """Characters of the stand-ins and of the break."""
    originals: dict[int, int | None]
    """Control token of every stand-in; None for the break."""

    @classmethod
    def of(cls, original: PreTrainedTokenizerBase, tokens: Sequence[Any]) -> _Splitter:
        from tokenizers import AddedToken

        tokenizer = copy.deepcopy(original)
        names = [token.content for token in tokens]
        # only special tokens are split, and a template may write others
        tokenizer.backend_tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
        stand_ins = [chr(_STAND_INS + index) for index in range(len(tokens))]
        # matched before normalisation, which may remove private characters
        flags = [{flag: getattr(token, flag) for flag in ("single_word", "lstrip", "rstrip")} for token in tokens]
        added = zip((*stand_ins, _BREAK), (*flags, {}), strict=True)
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False, **options) for text, options in added])
        ids: dict[int, int | None] = dict(zip(_ids_of(tokenizer, stand_ins), _ids_of(original, names), strict=True))
        ids |= dict.fromkeys(_ids_of(tokenizer, [_BREAK]))
        return cls(tokenizer, tuple(map(ord, (*stand_ins, _BREAK))), ids)

    def split(self, text: str) -> list[int]:
        return self.encode(text)[0]

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the tokens of a text with their first and last characters."""
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        encoded: Any = self.tokenizer(text, return_offsets_mapping=True, **options)
        return list(encoded["input_ids"]), list(encoded["offset_mapping"])

    def originals_of(self, ids: Sequence[int]) -> list[int | None]:
        """Return the tokens with control tokens in place of stand-ins, and None in place of breaks."""
        return [self.originals.get(token, token) for token in ids]

    def without_stand_ins(self, ids: Sequence[int]) -> list[int]:
        return [token for token in self.originals_of(ids) if token is not None]


def _ids_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[int]:
    return [int(tokenizer.convert_tokens_to_ids(token)) for token in tokens]  # type: ignore[arg-type]


_known: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, _Control]] = WeakKeyDictionary()
"""Control tokens of the loaded tokenizers, with the state of the tokenizer for which they hold."""


def _control(tokenizer: PreTrainedTokenizerBase) -> _Control:
    """Return the control tokens of a tokenizer; they change with its chat template."""
    state = (str(tokenizer.chat_template), tokenizer.eos_token, tokenizer.bos_token, len(tokenizer))
    known_state, control = _known.get(tokenizer, (None, None))
    if control is None or known_state != state:
        control = _read(tokenizer)
        _known[tokenizer] = state, control
    return control


def _read(tokenizer: PreTrainedTokenizerBase) -> _Control:
    frame, closing = _frame(tokenizer)
    added = tokenizer.added_tokens_decoder.values()
    named = {*tokenizer.all_special_tokens, *_TURN_MARKS}
    tokens = [
        token
        for token in added
        if token.content.strip() and (token.special or token.content in named or token.content in frame)
    ]
    return _Control(tokenizer, tuple(tokens), any(token.content in closing for token in tokens))


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return the text that the chat template writes around a short dialogue, and its part after the answer."""
    if not tokenizer.chat_template:
        return "", ""
    from jinja2 import TemplateError

    question, answer = _PROBE
    try:
        whole = str(tokenizer.apply_chat_template(dialogue(question, answer), tokenize=False))
        before = str(tokenizer.apply_chat_template(dialogue(question), tokenize=False, add_generation_prompt=True))
    except TemplateError:
        return "", ""
    start, _, closing = whole.rpartition(answer)
    return "\n".join((before.replace(question, "\n"), start.replace(question, "\n"), closing)), closing
