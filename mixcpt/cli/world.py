"""`mixcpt world`: the closed world as files, and the small base model that knows its general part."""

from pathlib import Path
from typing import Annotated

import typer

from mixcpt.cli.console import err, explain_errors, out
from mixcpt.errors import ConfigError, ModelError
from mixcpt.store.models import CLOSED_WORLD_PATH

world = typer.Typer(no_args_is_help=True, help="The closed world and its small base model.")


@world.command("write")
@explain_errors
def write(
    output: Annotated[Path, typer.Argument(help="Folder to write the files into.")],
    seed: Annotated[int, typer.Option(help="Seed of the world; the shipped model knows world 0.")] = 0,
    entities: Annotated[int, typer.Option(min=10, max=360, help="Entities of the domain, an even number.")] = 60,
    wordings: Annotated[int, typer.Option(min=1, help="Documents about each of them.")] = 30,
    mentions: Annotated[int, typer.Option(min=1, max=2, help="How often a document states each fact.")] = 1,
    notes: Annotated[bool, typer.Option(help="Also state every fact by itself, in every wording.")] = True,
) -> None:
    """Write the world as jsonl: documents, news that contradict, instructions, preferences, and every question.

    For a benchmark with other tools: teach a model domain.jsonl, ask it questions-domain.jsonl (what it has learned)
    and questions-general_unasked.jsonl (what it has forgotten). docs/world.md says what the forms mean.
    """
    from pydantic import ValidationError

    from mixcpt.closed_world.benchmark import write_benchmark
    from mixcpt.config import ClosedWorldSource

    settings = {"seed": seed, "entities": entities, "wordings": wordings, "mentions": mentions, "notes": notes}
    try:
        source = ClosedWorldSource.model_validate({"name": "world", "pool": "domain", **settings})
    except ValidationError as error:
        raise ConfigError("; ".join(str(item["msg"]) for item in error.errors())) from None
    for name, count in write_benchmark(output, source).items():
        out.print(f"{output / name}: {count:,}", markup=False, highlight=False, soft_wrap=True)


@world.command("build-base")
@explain_errors
def build_base(
    output: Annotated[Path, typer.Argument(help="Folder to write the model into.")],
    seed: Annotated[int, typer.Option(help="Seed of world and training.")] = 0,
) -> None:
    """Train the small base model anew on the general part of the closed world (about ten minutes on two cores)."""
    from mixcpt.bases.build_base import build_base as build
    from mixcpt.store.spool import NullTracker

    scores = build(output, seed=seed, tracker=NullTracker())
    for name, value in scores.items():
        out.print(f"{name}: {value}", markup=False)


@world.command("verify-base")
@explain_errors
def verify_base(
    folder: Annotated[Path, typer.Argument(help="The model to verify.")] = CLOSED_WORLD_PATH,
) -> None:
    """Measure a base model again and compare with the scores and the digest in its recipe."""
    from mixcpt.bases.build_base import verify_base as verify

    result = verify(folder)
    for name, value in result.items():
        out.print(f"{name}: {value}", markup=False)
    if not result.get("verified"):
        raise ModelError(f"{folder} does not match its recipe.json")
    err.print("verified", style="green")
