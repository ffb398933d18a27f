"""The `mixcpt` program and the list of its commands."""

from typing import Annotated

import typer
from typer import Option

from mixcpt import __version__
from mixcpt.cli.bases import new_base, world
from mixcpt.cli.chat import chat
from mixcpt.cli.configure import init, validate
from mixcpt.cli.export import export
from mixcpt.cli.forms import forms
from mixcpt.cli.inspect import ledger, lineage, report
from mixcpt.cli.launch import advise, compare, demo, deploy, reconcile, run, up
from mixcpt.cli.merge import merge
from mixcpt.cli.plan import plan
from mixcpt.cli.rounds import corpus, promote, readapt, rollback
from mixcpt.cli.runs import runs

app = typer.Typer(
    name="mixcpt",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_PANELS = {
    "Adapt a model": (demo, init, forms, validate, plan, run),
    "Use the result": (runs, report, ledger, lineage, chat, export),
    "Compare methods and search settings": (compare, advise),
    "Re-adapt in rounds": (corpus, readapt, promote, rollback),
    "Run servers": (up, deploy, reconcile),
    "Make models without a run": (merge, new_base, world),
}


def _print_version(is_set: bool) -> bool:
    if is_set:
        typer.echo(f"mixcpt {__version__}")
        raise typer.Exit
    return is_set


@app.callback()
def main(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Teach an open-weight language model a new domain without losing its prior knowledge.

    Start with `mixcpt demo`. Then, for your own documents:

    ```
    mixcpt init my.yaml --documents ./docs --model ./model
    mixcpt validate my.yaml
    mixcpt plan my.yaml
    mixcpt run my.yaml
    mixcpt report my
    mixcpt ledger my --output facts.csv
    mixcpt chat my
    ```
    """


for _panel, _commands in _PANELS.items():
    for _command in _commands:
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, rich_help_panel=_panel)
        else:
            app.command(rich_help_panel=_panel)(_command)  # type: ignore[type-var]
