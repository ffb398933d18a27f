"""Check of the chat template of a run: rendered on one and two turns, with and without a system message."""

from __future__ import annotations

import copy
import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mixcpt.checks.findings import Finding, Subject
from mixcpt.checks.template_size import oversized
from mixcpt.checks.time_limit import TookTooLong, within
from mixcpt.errors import MixcptError
from mixcpt.store.control_tokens import ends_answer
from mixcpt.store.models import ModelRef, first_line, read_chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KEY = "base.chat_template"
_REMEDY = "correct the template, or set base.chat_template to plain or chatml"
_SECONDS = 5.0
_SYSTEM = {"role": "system", "content": "zebra"}
_TURNS = (
    {"role": "user", "content": "ping"},
    {"role": "assistant", "content": "pong"},
    {"role": "user", "content": "quiz"},
    {"role": "assistant", "content": "dodo"},
)
_ODD_TEXT = "One < 2 & \"three\" 'four'\n\n  Fünf: {{ six }} $7 \\n"
"""Text that a template can damage: markup, quotes, line breaks, braces, other alphabets."""


class _Failed(Exception):
    """A conversation cannot be rendered."""


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of the chat template, if the run needs one."""
    if not (subject.base and subject.tokenizer and subject.needs_chat):
        return
    try:
        rendering = _rendering(subject.base, subject.tokenizer, subject.config.base.chat_template)
    except MixcptError as error:
        yield Finding.of(error)
        return
    if not rendering.tokenizer.chat_template:
        yield Finding(
            problem=f"{_KEY} is not set, and the tokenizer of {subject.base.path} has no chat template, "
            "which format alignment needs",
            remedy=f"set {_KEY} to plain, chatml or the path of a Jinja file",
        )
        return
    problems = list(rendering.problems())
    yield from problems or rendering.warnings()


def _rendering(base: ModelRef, tokenizer: PreTrainedTokenizerBase, setting: str) -> _Rendering:
    used = copy.copy(tokenizer)
    if setting:
        used.chat_template = read_chat_template(setting)
        return _Rendering(used, setting)
    file = base.directory / "chat_template.jinja"
    return _Rendering(used, f"in {file if file.is_file() else base.directory / 'tokenizer_config.json'}")


@dataclass(frozen=True)
class _Rendering:
    """A tokenizer with the chat template of the run."""

    tokenizer: PreTrainedTokenizerBase
    place: str
    """Value of the setting, or `in` and the file that has the template."""

    def problems(self) -> Iterator[Finding]:
        """Yield the reasons why the template cannot be used."""
        named: object = self.tokenizer.chat_template  # a dictionary if the model has several templates
        templates = named.values() if isinstance(named, dict) else [named]
        if operation := next(filter(None, map(oversized, map(str, templates))), ""):
            yield self._problem(f"has {operation}, whose result can be too large to compute")
            return
        try:
            one = self.render(_TURNS[:2])
            self.render(_TURNS[:1], prompt=True)
        except _Failed as error:
            yield self._failure(error)
            return
        if missing := _missing(one, _TURNS[:2]):
            yield self._problem(f"drops the {missing} turn of a conversation; it renders {_shortened(one)}")
            return
        yield from self._text_problems()
        yield from self._turn_problems()

    def warnings(self) -> Iterator[Finding]:
        """Yield the properties of the template that surprise, although a run can use it."""
        if not ends_answer(self.tokenizer):
            yield self._warning(
                f"writes no control token after an answer; {self.tokenizer.eos_token} is added there in training"
            )
        if header := self._unprompted():
            yield self._warning(
                f"ignores add_generation_prompt, so the model learns to write {header!r} itself before each answer",
                _REMEDY,
            )
        try:
            self.render([_SYSTEM, *_TURNS[:2]])
        except _Failed as error:
            yield self._warning(f"refuses system messages: {error}", "send no system message to the model")

    def render(self, turns: Sequence[dict[str, str]], *, prompt: bool = False) -> str:
        """Return a conversation as text.

        Raises:
            _Failed: If the template has an error, raises one, or does not end.
        """
        apply = partial(self.tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=prompt)
        try:
            return str(within(_SECONDS, partial(apply, [dict(turn) for turn in turns])))
        except Exception as error:  # templates are programs and raise errors of any kind
            raise _Failed(_described(error, self.tokenizer.chat_template)) from error

    def _failure(self, error: _Failed) -> Finding:
        try:
            if isinstance(error.__cause__, TookTooLong):
                raise error
            self.render([_SYSTEM, *_TURNS[:2]])
        except _Failed:
            return self._problem(f"cannot be rendered: {error}")
        return self._problem(f"needs a system message, which samples do not have: {error}")

    def _text_problems(self) -> Iterator[Finding]:
        """Yield a problem if the template changes the words of a turn."""
        for role in ("user", "assistant"):
            turns = [turn | {"content": _ODD_TEXT} if turn["role"] == role else turn for turn in _TURNS[:2]]
            try:
                text = self.render(turns)
            except _Failed as error:
                yield self._problem(f"cannot render the text {_ODD_TEXT!r}: {error}")
                return
            if _ODD_TEXT.strip() not in text:
                how = "escapes" if html.unescape(text) != text else "changes"
                yield self._problem(f"{how} the text of the {role} turn; it renders {_shortened(text)}")
                return

    def _turn_problems(self) -> Iterator[Finding]:
        """Yield a problem if a second turn makes the template drop text."""
        try:
            two = self.render(_TURNS)
        except _Failed as error:
            yield self._problem(f"cannot render a conversation of two questions: {error}")
            return
        if missing := _missing(two, _TURNS):
            yield self._problem(
                f"drops the {missing} turn of a conversation of two questions; it renders {_shortened(two)}"
            )

    def _unprompted(self) -> str:
        """Return the text before an answer that no prompt contains, if the template ignores `add_generation_prompt`."""
        question, answer = _TURNS[:2]
        try:
            bare, before = self.render([question]), self.render([question], prompt=True)
            whole = self.render([question, answer])
        except _Failed:
            return ""
        header = whole[len(before) : whole.find(answer["content"])]
        return header if bare == before and whole.startswith(before) and any(map(str.isalnum, header)) else ""

    def _problem(self, text: str) -> Finding:
        return Finding(problem=self._sentence(text), remedy=_REMEDY)

    def _warning(self, text: str, remedy: str = "") -> Finding:
        return Finding(problem=self._sentence(text), remedy=remedy, is_warning=True)

    def _sentence(self, text: str) -> str:
        return f"{_KEY}: the template {self.place} {text}"


def _missing(text: str, turns: Sequence[dict[str, str]]) -> str:
    """Return the first turn whose words are not in a text, such as `second assistant`; empty if none is."""
    for index, turn in enumerate(turns):
        if turn["content"] not in text:
            number = ("first", "second")[index // 2]
            return f"{number} {turn['role']}" if len(turns) > 2 else turn["role"]
    return ""


def _described(error: Exception, template: Any) -> str:
    """Return an error of a template with its line."""
    from jinja2 import TemplateSyntaxError

    if isinstance(error, TookTooLong):
        return str(error)
    number = error.lineno if isinstance(error, TemplateSyntaxError) else _line_of(error)
    if not number:
        return first_line(error)
    lines = template.splitlines() if isinstance(template, str) else []
    quoted = f", {_shortened(lines[number - 1].strip())}" if number <= len(lines) else ""
    return f"{first_line(error)} (line {number}{quoted})"


def _line_of(error: Exception) -> int:
    """Return the line of the template that raised an error; 0 if it is unknown."""
    number, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == "<template>":
            number = trace.tb_lineno
        trace = trace.tb_next
    return number


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 160 else f"{text[:157]}...")
