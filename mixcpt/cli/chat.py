"""`mixcpt chat`: questions to a model in the terminal, or to two models at once."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mixcpt.cli import named
from mixcpt.cli.console import Store, err, explain_errors
from mixcpt.cli.talk import Talk, label, typed
from mixcpt.errors import ModelError
from mixcpt.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    from mixcpt.serving.conversation import Conversation
    from mixcpt.serving.speaker import Sampling, Speaker


@explain_errors
def chat(
    model: Annotated[str, typer.Argument(help=named.HELP)],
    beside: Annotated[str, typer.Option(help="A second model that is asked the same, e.g. the base.")] = "",
    ask: Annotated[
        list[str] | None, typer.Option(help="Ask this, print the answer and end; repeatable, as turns of one chat.")
    ] = None,
    system: Annotated[str, typer.Option(help="What stands before all turns, where the chat template takes it.")] = "",
    plain: Annotated[
        bool,
        typer.Option(
            "--plain",
            help="No chat template: the model goes on after your text and a newline, as after a question in "
            "pre-training; after a \\ at its end, in the same line. Each text stands by itself.",
        ),
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0, max=10, help="0 takes the likeliest token each time; 1 draws as the model predicts.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn: the same seed gives the same answers.")] = 0,
    store: Store = ".mixcpt",
) -> None:
    """Talk to a model: the base, what a run made of it, or both side by side.

    In a terminal the answer appears token by token, and earlier turns are remembered; /help lists the commands,
    Ctrl-C ends an answer, Ctrl-D the chat. Lines from a pipe are answered one by one, each as a turn of one chat:
    answers go to stdout, all else to stderr.

      mixcpt chat my-run --beside my-run@base
      mixcpt chat mixcpt-adapted@champion --ask "What is the femur?"
    """
    from mixcpt.serving.speaker import Sampling

    is_interactive = not ask and sys.stdin.isatty()
    sampling = Sampling(max_tokens, temperature, seed)
    speakers = _speakers([model, beside] if beside else [model], ArtifactStore(store))
    conversations = _conversations(speakers, sampling, system, is_plain=plain)
    if is_interactive:
        for each in conversations:
            err.print(f"{label(each)}: {each.speaker.description}", style="dim", markup=False, highlight=False)
        err.print("/help lists the commands", style="dim", markup=False)
    lines = ask or (typed() if is_interactive else sys.stdin)
    Talk(conversations, is_interactive=is_interactive).follow(lines, with_commands=not ask)


def _speakers(names: list[str], store: ArtifactStore) -> "list[Speaker]":
    """Returns the models that were named, loaded; all names are looked up before the first is loaded."""
    from transformers.utils.logging import disable_progress_bar

    from mixcpt.serving.speaker import load_speaker

    if not err.is_terminal:
        disable_progress_bar()
    return [load_speaker(model) for model in [named.named_model(store, name) for name in names]]


def _conversations(
    speakers: "list[Speaker]", sampling: "Sampling", system: str, *, is_plain: bool
) -> "list[Conversation]":
    """Returns a conversation with each model: in chat form, or plainly where it has none and the other one has."""
    from mixcpt.serving.conversation import Conversation

    has_form = [not is_plain and bool(speaker.tokenizer.chat_template) for speaker in speakers]
    if not is_plain and not any(has_form):
        raise ModelError(
            f"{' and '.join(speaker.model.name for speaker in speakers)}: no chat template",
            "a model that was not taught a chat form goes on with a text instead: --plain",
        )
    conversations = []
    for speaker, in_chat in zip(speakers, has_form, strict=True):
        if not is_plain and not in_chat:
            err.print(f"{speaker.model.name} has no chat template: it is asked in plain form", markup=False)
        conversations.append(
            Conversation(speaker, "chat" if in_chat else "plain", sampling, system if in_chat or is_plain else "")
        )
    return conversations
