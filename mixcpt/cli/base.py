"""`mixcpt new-base` and `mixcpt export`: a model to begin with, and the model that came of a run."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from mixcpt.artifacts import ArtifactStore
from mixcpt.cli.console import Store, explain_errors, out
from mixcpt.config import load_config
from mixcpt.errors import ConfigError

_SHAPE = "of the network"


@explain_errors
def new_base(
    config: Annotated[Path, typer.Argument(help="The YAML file of a run; base.model names the folder to write.")],
    vocabulary: Annotated[int, typer.Option(min=300, help="Tokens, learned from the run's documents.")] = 8192,
    hidden: Annotated[int, typer.Option(min=16, help=f"Width {_SHAPE}.")] = 256,
    layers: Annotated[int, typer.Option(min=1, help=f"Depth {_SHAPE}.")] = 6,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads; a divisor of the width.")] = 4,
    context: Annotated[int, typer.Option(min=64, help="Longest text, in tokens.")] = 1024,
) -> None:
    """Write a small untrained model whose tokenizer is learned from a run's documents; `mixcpt run` then trains it.

    For trials that need a base of a known past: which texts it has read, and which it has not.
    """
    from mixcpt.curation import curate
    from mixcpt.new_base import Shape, write_new_base

    settings = load_config(config)
    folder = Path(settings.base.model).expanduser()
    corpus = curate(settings.curation, seed=settings.data_seed, store=ArtifactStore(settings.runtime.store))
    shape = Shape(vocabulary, hidden, layers, heads, context)
    num_parameters = write_new_base(folder, corpus, shape, seed=settings.seed)
    out.print(
        f"wrote {folder}: {num_parameters:,} parameters, untrained", markup=False, highlight=False, soft_wrap=True
    )


@explain_errors
def export(
    run: Annotated[str, typer.Argument(help="Name or fingerprint of a run.")],
    output: Annotated[Path, typer.Argument(help="The folder to write; it must not exist, or be empty.")],
    store: Store = ".mixcpt",
) -> None:
    """Copy the final model of a run, as a Hugging Face folder that any library loads."""
    from mixcpt.report.view import located
    from mixcpt.runs import find_run

    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty", "name a new folder")
    artifacts = ArtifactStore(store)
    found = located(find_run(artifacts, run), artifacts)
    shutil.copytree(found.final_model.path, output, dirs_exist_ok=True)
    out.print(f"wrote {output}: the model of {found.name}", markup=False, highlight=False, soft_wrap=True)
