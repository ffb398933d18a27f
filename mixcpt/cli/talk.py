"""The loop of `mixcpt chat`: lines in, answers out, commands that begin with a slash."""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mixcpt.cli.console import err, out
from mixcpt.errors import MixcptError
from mixcpt.report import words

if TYPE_CHECKING:
    from mixcpt.serving.conversation import Conversation, Reply

_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)
_COMMANDS = """\
/reset          forget all turns
/system TEXT    set what stands before all turns, from the next question on; without TEXT: nothing
/save FILE      write what was said as JSON lines, one a model, in the form of chat data sets
/help           this list
/quit           the end; Ctrl-D too. Ctrl-C ends an answer"""


class Talk:
    """A conversation with one model, or the same one with two."""

    def __init__(self, conversations: Sequence["Conversation"], *, is_interactive: bool) -> None:
        self._conversations = conversations
        self._is_interactive = is_interactive

    def follow(self, lines: Iterable[str], *, with_commands: bool) -> None:
        """Answers each line, until the lines or the user come to an end.

        Raises:
            MixcptError: If a line cannot be answered and nobody is there to write another.
        """
        for line in map(str.strip, lines):
            command = _COMMAND.fullmatch(line) if with_commands else None
            if command and command[1] == "quit":
                return
            try:
                if command:
                    self._obey(command[1], command[2] or "")
                elif line:
                    self._answer(line)
            except MixcptError as error:
                if not self._is_interactive:
                    raise
                _note(str(error), style="red")

    def _answer(self, question: str) -> None:
        for conversation in self._conversations:
            if len(self._conversations) > 1:
                out.print(f"{label(conversation)}:", style="bold", markup=False, highlight=False, soft_wrap=True)
            reply = conversation.ask(question, lambda piece: typer.echo(words.printable(piece), nl=False))
            typer.echo()
            for note in _remarks(reply):
                _note(note)
            if reply.answer.ending == "interrupted" and not self._is_interactive:
                raise typer.Exit(130)

    def _obey(self, command: str, rest: str) -> None:
        match command:
            case "reset":
                for conversation in self._conversations:
                    conversation.reset()
                _note("all turns forgotten")
            case "system":
                in_chat = [each for each in self._conversations if each.form == "chat"]
                for conversation in in_chat or self._conversations:  # where none has a place for it, that is told
                    conversation.set_system(rest)
                _note("the system message is set" if rest else "there is no system message now")
            case "save":
                self._save(rest)
            case _:
                _note(_COMMANDS if command == "help" else f"there is no /{command}:\n{_COMMANDS}")

    def _save(self, name: str) -> None:
        from mixcpt.serving.conversation import as_lines

        try:
            with Path(name).expanduser().open("x", encoding="utf-8") as file:
                file.write(as_lines(self._conversations))
        except OSError as error:
            _note(f"cannot write {name or 'a file without a name'}: {error.strerror}", style="red")
        else:
            _note(f"wrote {name}")


def typed() -> Iterator[str]:
    """Yields what is typed at the prompt, until Ctrl-D."""
    with suppress(ImportError):
        import readline  # noqa: F401  # a line can be edited, and earlier ones brought back

    while True:
        try:
            yield input("> " if sys.stdout.isatty() else "")
        except KeyboardInterrupt:
            _note("\nCtrl-D ends the chat")
        except EOFError:
            typer.echo()
            return


def label(conversation: "Conversation") -> str:
    """Returns e.g. `my-run (chat)`."""
    return f"{words.printable(conversation.speaker.model.name)} ({conversation.form})"


def _remarks(reply: "Reply") -> Iterator[str]:
    if reply.num_dropped:
        turns = "turn was" if reply.num_dropped == 1 else f"{reply.num_dropped} turns were"
        yield f"the oldest {turns} left out: the conversation no longer fits the model's context"
    if reply.answer.ending == "length":
        yield f"cut after {reply.answer.num_tokens} tokens (--max-tokens, or the end of the model's context)"
    if reply.answer.ending == "interrupted":
        yield "interrupted"


def _note(text: str, style: str = "dim") -> None:
    err.print(words.printable(text), style=style, markup=False, highlight=False, soft_wrap=True)
