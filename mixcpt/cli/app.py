"""The `mixcpt` program and the list of its commands."""

from typing import Annotated

import typer

from mixcpt import __version__
from mixcpt.cli.base import new_base
from mixcpt.cli.chat import chat
from mixcpt.cli.configure import init, validate
from mixcpt.cli.corpora import corpus
from mixcpt.cli.deploy import deploy
from mixcpt.cli.export import export
from mixcpt.cli.inspect import ledger, report
from mixcpt.cli.launch import advise, compare, demo, reconcile, run, up
from mixcpt.cli.lineage import lineage
from mixcpt.cli.merge import merge
from mixcpt.cli.plan import plan
from mixcpt.cli.rounds import promote, readapt, rollback
from mixcpt.cli.world import world

app = typer.Typer(
    name="mixcpt",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mixcpt {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Teach an open-weight language model a new domain without losing what it already knows.

    Start with [bold]mixcpt demo[/bold]. Then, for your own documents:

      mixcpt init my.yaml --documents ./docs --model ./model
      mixcpt validate my.yaml
      mixcpt plan my.yaml
      mixcpt run my.yaml
      mixcpt report my-run
      mixcpt ledger my-run --output facts.csv
      mixcpt chat my-run --beside my-run@base
    """


app.command()(demo)
app.command()(init)
app.command()(validate)
app.command()(plan)
app.command()(run)
app.command()(compare)
app.command()(advise)
app.command()(readapt)
app.command()(promote)
app.command()(rollback)
app.command()(up)
app.command()(deploy)
app.command()(reconcile)
app.command()(report)
app.command()(ledger)
app.command()(lineage)
app.command()(chat)
app.command()(export)
app.command("new-base")(new_base)
app.add_typer(corpus, name="corpus")
app.add_typer(merge, name="merge")
app.add_typer(world, name="world")
