"""`mixcpt chat`: questions to a model in the terminal, or to two models at once."""

import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from mixcpt.cli import named
from mixcpt.cli.console import Store, err, explain_errors, print_line, print_note
from mixcpt.errors import MixcptError, ModelError
from mixcpt.report.words import printable
from mixcpt.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    from mixcpt.serving.chat import Chat


@explain_errors
def chat(
    model: Annotated[str, Argument(help=named.HELP)],
    beside: Annotated[str, Option(help="Second model that answers the same questions, e.g. my-run@base.")] = "",
    ask: Annotated[list[str] | None, Option(help="Ask this question, print the answer and exit; repeatable.")] = None,
    system: Annotated[str, Option(help="System message, for chat templates that accept one.")] = "",
    plain: Annotated[
        bool,
        Option(
            "--plain",
            help="Use no chat template: the model continues your text after a line break, or on the same line if "
            "your text ends with a backslash. Each text stands by itself.",
        ),
    ] = False,
    max_tokens: Annotated[int, Option(min=1, help="Maximum length of an answer, in tokens.")] = 256,
    temperature: Annotated[float, Option(min=0, max=10, help="Temperature; 0 takes the most likely token.")] = 0.0,
    seed: Annotated[int, Option(min=0, help="Seed of the sampling; the same seed gives the same answers.")] = 0,
    store: Store = ".mixcpt",
) -> None:
    """Chat with a model: a base model, the result of a run, or two models with the same questions.

    In a terminal, answers appear word by word. Ctrl-C ends an answer, `/reset` forgets the conversation, Ctrl-D or
    `/quit` ends the chat. Lines from a pipe are the turns of one conversation. Answers go to stdout, notes to stderr.

    ```
    mixcpt chat my-run
    mixcpt chat mixcpt-adapted@champion --ask "Which bone is the longest?"
    ```
    """
    from transformers.utils.logging import disable_progress_bar

    from mixcpt.serving.chat import load_chat

    if not err.is_terminal:
        disable_progress_bar()
    artifacts = ArtifactStore(store)
    models = [named.named_model(artifacts, name) for name in filter(None, [model, beside])]
    options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "plain": plain, "system": system}
    chats = [load_chat(ref, **options) for ref in models]  # type: ignore[arg-type]
    if not plain and all(chat.is_plain for chat in chats):
        names = " and ".join(chat.name for chat in chats)
        raise ModelError(f"{names}: no chat template", "use --plain: the model then continues your text")
    for chat in chats:
        if chat.is_plain and not plain:
            _note(f"{chat.name} has no chat template: it is asked in plain form")
    is_interactive = not ask and sys.stdin.isatty()
    if is_interactive:
        _note("Ctrl-C ends an answer, /reset forgets the conversation, /quit or Ctrl-D ends the chat")
    for line in map(str.strip, ask or (_typed() if is_interactive else sys.stdin)):
        if line == "/quit":
            return
        try:
            _handle(line, chats, is_interactive=is_interactive)
        except MixcptError as error:
            if not is_interactive:
                raise
            _note(str(error), style="red")


def _handle(line: str, chats: "list[Chat]", *, is_interactive: bool) -> None:
    for chat in chats:
        if line == "/reset":
            chat.messages.clear()
            _note(f"{chat.name}: the conversation is forgotten")
        elif line:
            if len(chats) > 1:
                heading = f"{printable(chat.name)} ({'plain' if chat.is_plain else 'chat'}):"
                print_line(heading, style="bold")
            _answer(chat, line, is_interactive=is_interactive)


def _answer(chat: "Chat", question: str, *, is_interactive: bool) -> None:
    try:
        with closing(chat.ask(question)) as parts:
            for part in parts:
                typer.echo(printable(part), nl=False)
    except KeyboardInterrupt:
        chat.notes.append("interrupted")
    typer.echo()
    for note in chat.notes:
        _note(note)
    if "interrupted" in chat.notes and not is_interactive:
        raise typer.Exit(130)


def _typed() -> Iterator[str]:
    """Yield the lines typed at the prompt, until Ctrl-D."""
    with suppress(ImportError):
        import readline  # noqa: F401  # importing it adds line editing and history to input()

    while True:
        try:
            yield input("> " if sys.stdout.isatty() else "")
        except KeyboardInterrupt:
            _note("\nCtrl-D ends the chat")
        except EOFError:
            typer.echo()
            return


def _note(text: str, style: str = "dim") -> None:
    print_note(printable(text), style=style)
