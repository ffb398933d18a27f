"""Output of the command line: results to stdout, everything else to stderr, mixcpt's own errors without a traceback."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar

import typer
from rich.console import Console
from typer import Option

from mixcpt.errors import MixcptError

if TYPE_CHECKING:
    from mixcpt.checks.preflight import Checked

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

out = Console()
err = Console(stderr=True)

Overrides = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY.PATH=VALUE", help="Change one setting, e.g. pretrain.method.alpha=0.3; repeatable."),
]
Store = Annotated[str, Option("--store", help="Folder of the artifact store.")]


def print_line(text: str, *, style: str | None = None) -> None:
    """Print a line of the result, exactly as it is."""
    out.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def print_note(text: str, *, style: str | None = None) -> None:
    """Print a line about the command to stderr, exactly as it is."""
    err.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def print_warnings(checked: "Checked") -> None:
    """Print the warnings about a run that can start."""
    for warning in checked.warnings:
        print_note(f"warning: {warning}", style="yellow")


def explain_errors(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Wrap a command so that it prints mixcpt's own errors as text and exits with code 2; bugs keep their traceback."""

    @functools.wraps(command)
    def explained(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return command(*args, **kwargs)
        except MixcptError as error:
            print_note(f"error: {error.problem}", style="bold red")
            if error.hint:
                print_note(f"  -> {error.hint}")
            raise typer.Exit(2) from None

    return explained
