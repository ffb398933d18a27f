"""`mixcpt world`: write the closed world as files; train and verify its small base model."""

from pathlib import Path
from typing import Annotated

import typer

from mixcpt.cli.console import err, explain_errors, out
from mixcpt.errors import ConfigError, ModelError
from mixcpt.store.models import CLOSED_WORLD_PATH

world = typer.Typer(
    name="world", no_args_is_help=True, help="Write the closed world as files; train and verify its base model."
)


@world.command("write")
@explain_errors
def write(
    output: Annotated[Path, typer.Argument(help="Folder of the files.")],
    seed: Annotated[int, typer.Option(help="Seed of the world; the shipped model was trained on world 0.")] = 0,
    entities: Annotated[int, typer.Option(min=10, max=360, help="Even number of entities of the domain.")] = 60,
    wordings: Annotated[int, typer.Option(min=1, help="Number of documents per entity.")] = 30,
    mentions: Annotated[int, typer.Option(min=1, max=2, help="Number of times that a document states each fact.")] = 1,
    notes: Annotated[bool, typer.Option(help="Also write every fact as a text of its own, in every wording.")] = True,
) -> None:
    """Write the closed world as jsonl files: documents, contradicting news, instructions, preferences and questions.

    Use it to benchmark other tools: train a model on domain.jsonl, then measure learning with questions-domain.jsonl
    and forgetting with questions-general_unasked.jsonl. docs/world.md explains the forms of questions.

    ```
    mixcpt world write ./world --seed 0
    ```
    """
    from pydantic import ValidationError

    from mixcpt.closed_world.benchmark import write_benchmark
    from mixcpt.config import ClosedWorldSource

    settings = {"seed": seed, "entities": entities, "wordings": wordings, "mentions": mentions, "notes": notes}
    try:
        source = ClosedWorldSource.model_validate({"name": "world", "pool": "domain", **settings})
    except ValidationError as error:
        problems = "; ".join(str(item["msg"]) for item in error.errors())
        raise ConfigError(problems, "see mixcpt world write --help") from None
    for name, count in write_benchmark(output, source).items():
        out.print(f"{output / name}: {count:,}", markup=False, highlight=False, soft_wrap=True)


@world.command("build-base")
@explain_errors
def build_base(
    output: Annotated[Path, typer.Argument(help="Folder of the model; it must be new or empty.")],
    seed: Annotated[int, typer.Option(help="Seed of the world and of the training.")] = 0,
) -> None:
    """Train the small base model on the general part of the closed world (about ten minutes on two cores).

    ```
    mixcpt world build-base ./base --seed 1
    ```
    """
    from mixcpt.bases.build_base import build_base as build
    from mixcpt.store.spool import NullTracker

    scores = build(output, seed=seed, tracker=NullTracker())
    for name, value in scores.items():
        out.print(f"{name}: {value}", markup=False)


@world.command("verify-base")
@explain_errors
def verify_base(
    folder: Annotated[
        Path, typer.Argument(help="Folder of the model to verify.", show_default="the model that ships with mixcpt")
    ] = CLOSED_WORLD_PATH,
) -> None:
    """Measure a base model again, and compare the scores and the digest with its recipe.

    ```
    mixcpt world verify-base ./base
    ```
    """
    from mixcpt.bases.build_base import verify_base as verify

    result = verify(folder)
    for name, value in result.items():
        out.print(f"{name}: {value}", markup=False)
    if not result.get("verified"):
        raise ModelError(
            f"{folder} does not match its recipe.json: digest_fits {result['digest_fits']}, "
            f"scores_fit {result['scores_fit']}",
            "build it again: mixcpt world build-base FOLDER",
        )
    err.print("verified", style="green")
