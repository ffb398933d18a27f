"""A conversation with one model: what was said, as the chat template writes it, and what of it still fits."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from jinja2 import TemplateError

from mixcpt.align.chat import PLAIN_SEPARATOR
from mixcpt.errors import DataError, ModelError
from mixcpt.serving.pieces import Answer, Say
from mixcpt.serving.speaker import Sampling, Speaker

Form: TypeAlias = Literal["plain", "chat"]

CONTINUE = "\\"
"""At the end of a plain text: the model goes on in the same line."""

_LEAST_ANSWER_TOKENS = 16
"""A question that leaves less room in the context is refused."""


@dataclass(frozen=True)
class Turn:
    """A question with its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Reply:
    """An answer, and how much of the conversation was left out to make room for it."""

    answer: Answer
    num_dropped: int
    """Of the oldest turns; they are gone from the conversation too."""


class Conversation:
    """What was said to and by one model; in plain form each text stands by itself."""

    def __init__(self, speaker: Speaker, form: Form, sampling: Sampling, system: str = "") -> None:
        self.speaker = speaker
        self.form = form
        self.sampling = sampling
        self.turns: list[Turn] = []
        self._num_asked = 0
        self.system = ""
        self.set_system(system)

    def set_system(self, text: str) -> None:
        """Sets what stands before all turns, from the next question on; empty for nothing.

        Raises:
            ModelError: If the form of the conversation has no place for it.
        """
        if text and self.form == "plain":
            raise ModelError("a plain text has no system message", "leave it away, or ask in chat form")
        if text and text.strip() not in self._render([], "a question", text):
            raise ModelError(f"the chat template of {self.speaker.model.name} drops the system message")
        self.system = text

    def reset(self) -> None:
        """Forgets all turns; the system message stays."""
        self.turns.clear()

    def ask(self, question: str, say: Say) -> Reply:
        """Returns the reply to a question, telling the answer's pieces to `say` on the way.

        An answer that was interrupted counts as said, unless nothing of it was.

        Raises:
            DataError: If the question alone is too long for the model.
        """
        prompt_ids, num_dropped = self._fit(question)
        del self.turns[:num_dropped]
        answer = self.speaker.answer(prompt_ids, self._sampling(len(prompt_ids)), say)
        self._num_asked += 1
        if self.form == "chat" and answer.text:
            self.turns.append(Turn(question, answer.text))
        return Reply(answer, num_dropped)

    def to_json(self) -> dict[str, Any]:
        """Returns what was said, in the form of chat data sets, and by which model."""
        model = {"name": self.speaker.model.name, "digest": self.speaker.model.digest}
        messages = self._messages(self.turns, None, self.system)
        return {"model": model, "sampling": asdict(self.sampling), "messages": messages}

    def _sampling(self, num_prompt_tokens: int) -> Sampling:
        """Returns how the next answer is drawn: turns differ in their seed, and an answer ends with the context."""
        seed, room = self.sampling.seed + self._num_asked, self.speaker.max_context - num_prompt_tokens
        most = min(self.sampling.max_tokens, room) if self.speaker.max_context else self.sampling.max_tokens
        return replace(self.sampling, seed=seed, max_tokens=most)

    def _fit(self, question: str) -> tuple[list[int], int]:
        """Returns the prompt, and how many of the oldest turns were left out to leave room for an answer.

        The room is what the longest answer needs, but no more than half the context.
        """
        context = self.speaker.max_context
        room = min(self.sampling.max_tokens, context // 2)
        for num_dropped in range(len(self.turns) + 1):
            prompt_ids = self._prompt_ids(self.turns[num_dropped:], question)
            if not context or len(prompt_ids) + room <= context:
                return prompt_ids, num_dropped
        if len(prompt_ids) + min(room, _LEAST_ANSWER_TOKENS) <= context:
            return prompt_ids, len(self.turns)
        name = self.speaker.model.name
        raise DataError(
            f"the question has {len(prompt_ids):,} tokens, and {name} reads and writes {context:,} in all",
            "ask something shorter",
        )

    def _prompt_ids(self, turns: Sequence[Turn], question: str) -> list[int]:
        tokenizer = self.speaker.tokenizer
        if self.form == "chat":
            return list(tokenizer(self._render(turns, question, self.system), add_special_tokens=False)["input_ids"])
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        goes_on = question.endswith(CONTINUE)
        text = question.removesuffix(CONTINUE) if goes_on else question + PLAIN_SEPARATOR
        ids = [*start, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        if not ids:
            raise DataError("the model has nothing to go on from", "write at least one word")
        return ids

    def _render(self, turns: Sequence[Turn], question: str, system: str) -> str:
        """Returns the conversation as text that ends where the model answers."""
        messages = self._messages(turns, question, system)
        try:
            return str(self.speaker.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            name = self.speaker.model.name
            raise ModelError(f"the chat template of {name} refuses this conversation: {error}") from error

    def _messages(self, turns: Sequence[Turn], question: str | None, system: str) -> list[dict[str, str]]:
        said = [("system", system)] if system else []
        said += [pair for turn in turns for pair in (("user", turn.question), ("assistant", turn.answer))]
        said += [] if question is None else [("user", question)]
        return [{"role": role, "content": content} for role, content in said]


def as_lines(conversations: Sequence[Conversation]) -> str:
    """Returns conversations as JSON lines, one a model."""
    return "".join(json.dumps(each.to_json(), ensure_ascii=False) + "\n" for each in conversations)
