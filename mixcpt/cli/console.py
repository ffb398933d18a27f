"""Output of the command line: results to stdout, everything else to stderr, mixcpt's own errors without a traceback."""

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.text import Text
from typer import Option

from mixcpt.config import AdaptConfig, Settings
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
StoreOfFile = Annotated[str, Option("--store", help="Folder of the artifact store. Default: the store of the file.")]


def print_line(text: str, *, style: str | None = None) -> None:
    """Print a line of the result, exactly as it is."""
    out.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def print_note(text: str, *, style: str | None = None) -> None:
    """Print a line about the command to stderr, exactly as it is."""
    err.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show a text while the command works: a spinner on a terminal, otherwise a line."""
    if err.is_terminal:
        with err.status(Text(text)):
            yield
    else:
        print_note(text)
        yield


def with_store(overrides: list[str] | None, store: str, key: str = "runtime.store") -> list[str]:
    """Return the overrides of a command with the store of its option, if it is given."""
    return [*(overrides or ()), *([f"{key}={json.dumps(store)}"] if store else ())]


def checked(config: AdaptConfig, origin: Path, study: Settings | None = None) -> "Checked":
    """Check a run, print its warnings and return the result; the modules of the checks take a moment to import.

    `study` has all settings of the file if the run is a part of them.
    """
    with working(f"checking {origin} ..."):
        from mixcpt.checks.keys import place_in
        from mixcpt.checks.preflight import preflight

        result = preflight(config, place=place_in(study or config))
    print_warnings(result)
    return result


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
