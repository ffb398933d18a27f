"""`mixcpt world`: the small base model that ships with mixcpt, rebuilt and verified."""

from pathlib import Path
from typing import Annotated

import typer

from mixcpt.cli.console import err, explain_errors, out
from mixcpt.errors import ModelError
from mixcpt.models import CLOSED_WORLD_PATH

world = typer.Typer(no_args_is_help=True, help="The closed world and its small base model.")


@world.command("build-base")
@explain_errors
def build_base(
    output: Annotated[Path, typer.Argument(help="Folder to write the model into.")],
    seed: Annotated[int, typer.Option(help="Seed of world and training.")] = 0,
) -> None:
    """Train the small base model anew on the general part of the closed world (about ten minutes on two cores)."""
    from mixcpt.build_base import build_base as build
    from mixcpt.tracking import NullTracker

    scores = build(output, seed=seed, tracker=NullTracker())
    for name, value in scores.items():
        out.print(f"{name}: {value}", markup=False)


@world.command("verify-base")
@explain_errors
def verify_base(
    folder: Annotated[Path, typer.Argument(help="The model to verify.")] = CLOSED_WORLD_PATH,
) -> None:
    """Measure a base model again and compare with the scores and the digest in its recipe."""
    from mixcpt.build_base import verify_base as verify

    result = verify(folder)
    for name, value in result.items():
        out.print(f"{name}: {value}", markup=False)
    if not result.get("verified"):
        raise ModelError(f"{folder} does not match its recipe.json")
    err.print("verified", style="green")
