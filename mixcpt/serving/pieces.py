"""An answer as it comes: from tokens to text, piece by piece, up to what closes it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from mixcpt.serving.endings import Endings

Say: TypeAlias = Callable[[str], None]
"""Takes each piece of an answer as soon as it is sure."""
Ending: TypeAlias = Literal["finished", "length", "interrupted"]
"""`length`: cut at the most tokens allowed; `interrupted`: by Ctrl-C."""

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer gives for the first bytes of a character."""


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    """Without white space at its ends and without what closes it: exactly the pieces that were told, put together."""
    num_tokens: int
    ending: Ending


class Pieces(BaseStreamer):
    """Turns tokens into text while they come, and tells what no later token can change.

    The library's own streamer decodes each line by itself, which loses the space that such a line may begin with.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, endings: Endings, say: Say) -> None:
        self._tokenizer = tokenizer
        self._endings = endings
        self._say = say
        self._ids: list[int] = []
        self._told = ""
        self._has_prompt = False
        self.is_closed = False

    def put(self, value: Tensor) -> None:
        if not self._has_prompt:  # the library tells the prompt first
            self._has_prompt = True
            return
        self._ids += value.flatten().tolist()
        self.is_closed = self._ids[-1] in self._endings.token_ids
        self._tell(self._held_back(self._text().rstrip(_INCOMPLETE)))

    def end(self) -> None:
        """The library's mark of the end; see `finish`, which an interrupted answer reaches too."""

    def finish(self, ending: Ending) -> Answer:
        """Returns the answer, after telling the rest of it."""
        self._tell(self._text())
        return Answer(self._told, len(self._ids), ending)

    def _text(self) -> str:
        """Returns the answer as decoded so far, cut where its closing text begins."""
        ids = [token for token in self._ids if token not in self._endings.token_ids]
        text = str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        closing = self._endings.text
        if closing and closing in text:
            self.is_closed = True
            text = text.partition(closing)[0]
        return text

    def _held_back(self, text: str) -> str:
        """Returns `text` without what may be the beginning of the closing text."""
        closing = self._endings.text
        longest = next((n for n in range(len(closing) - 1, 0, -1) if text.endswith(closing[:n])), 0)
        return text[: len(text) - longest]

    def _tell(self, text: str) -> None:
        text = text.strip()
        if piece := text[len(self._told) :]:
            self._told += piece
            self._say(piece)
