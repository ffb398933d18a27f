"""`mixcpt new-base` and `mixcpt world`: small base models made without a run, and the closed world as files."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from mixcpt.cli.console import StoreOfFile, explain_errors, print_line, print_note, with_store
from mixcpt.config import load_config
from mixcpt.errors import ConfigError, ModelError
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import CLOSED_WORLD_PATH

world = typer.Typer(
    name="world", no_args_is_help=True, help="Write the closed world as files; train and verify its base model."
)


@world.command("write")
@explain_errors
def write(
    output: Annotated[Path, Argument(help="Folder of the files.")],
    seed: Annotated[int, Option(help="Seed of the world; the shipped model was trained on world 0.")] = 0,
    entities: Annotated[int, Option(min=10, max=360, help="Even number of entities of the domain.")] = 60,
    wordings: Annotated[int, Option(min=1, help="Number of documents per entity.")] = 30,
    mentions: Annotated[int, Option(min=1, max=2, help="Number of times that a document states each fact.")] = 1,
    notes: Annotated[bool, Option(help="Also write every fact as a text of its own, in every wording.")] = True,
) -> None:
    """Write the closed world as jsonl files: documents, contradicting news, instructions, preferences and questions.

    Use it to benchmark other tools: train a model on domain.jsonl, then measure learning with questions-domain.jsonl
    and forgetting with questions-general_unasked.jsonl. docs/world.md explains the forms of questions.

    ```
    mixcpt world write ./world --seed 0
    ```
    """
    from pydantic import ValidationError

    from mixcpt.closed_world.records import write_benchmark
    from mixcpt.config import ClosedWorldSource

    settings = {"seed": seed, "entities": entities, "wordings": wordings, "mentions": mentions, "notes": notes}
    try:
        source = ClosedWorldSource.model_validate({"name": "world", "pool": "domain", **settings})
    except ValidationError as error:
        problems = "; ".join(str(item["msg"]) for item in error.errors())
        raise ConfigError(problems, "see mixcpt world write --help") from None
    for name, count in write_benchmark(output, source).items():
        print_line(f"{output / name}: {count:,}")


@world.command("build-base")
@explain_errors
def build_base(
    output: Annotated[Path, Argument(help="Folder of the model; it must be new or empty.")],
    seed: Annotated[int, Option(help="Seed of the world and of the training.")] = 0,
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
        print_line(f"{name}: {value}")


@world.command("verify-base")
@explain_errors
def verify_base(
    folder: Annotated[
        Path, Argument(help="Folder of the model to verify.", show_default="the model that ships with mixcpt")
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
        print_line(f"{name}: {value}")
    if not result.get("verified"):
        raise ModelError(
            f"{folder} does not match its recipe.json: digest_fits {result['digest_fits']}, "
            f"scores_fit {result['scores_fit']}",
            "build it again: mixcpt world build-base FOLDER",
        )
    print_note("verified", style="green")


@explain_errors
def new_base(
    config: Annotated[Path, Argument(help="YAML file of a run; its base.model names the folder to write.")],
    vocabulary: Annotated[
        int, Option(min=300, help="Vocabulary size; the words come from the run's documents.")
    ] = 8192,
    hidden: Annotated[int, Option(min=16, help="Width of the network.")] = 256,
    layers: Annotated[int, Option(min=1, help="Number of layers.")] = 6,
    heads: Annotated[int, Option(min=1, help="Number of attention heads; must divide the width.")] = 4,
    context: Annotated[int, Option(min=64, help="Maximum length of a text, in tokens.")] = 1024,
    store: StoreOfFile = "",
) -> None:
    """Write a small untrained model with a tokenizer learned from a run's documents; `mixcpt run` then trains it.

    Use it for experiments that need a base model with a known past: it has read no text yet.

    ```
    mixcpt new-base my.yaml --hidden 128 --layers 4
    ```
    """
    from mixcpt.bases.new_base import Shape, write_new_base
    from mixcpt.curation.pipeline import curate

    settings = load_config(config, with_store(None, store))
    folder = Path(settings.base.model).expanduser()
    corpus = curate(settings.curation, seed=settings.data_seed, store=ArtifactStore(settings.runtime.store))
    shape = Shape(hidden=hidden, layers=layers, heads=heads, context=context)
    num_parameters = write_new_base(folder, corpus, shape, vocabulary=vocabulary, seed=settings.seed)
    print_line(f"wrote {folder}: {num_parameters:,} parameters, untrained")
