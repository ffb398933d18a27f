"""`mixcpt new-base`: a small untrained base model."""

from pathlib import Path
from typing import Annotated

import typer

from mixcpt.cli.console import explain_errors, out
from mixcpt.config import load_config
from mixcpt.store.artifacts import ArtifactStore


@explain_errors
def new_base(
    config: Annotated[Path, typer.Argument(help="YAML file of a run; its base.model names the folder to write.")],
    vocabulary: Annotated[
        int, typer.Option(min=300, help="Size of the vocabulary that is learned from the run's documents.")
    ] = 8192,
    hidden: Annotated[int, typer.Option(min=16, help="Width of the network.")] = 256,
    layers: Annotated[int, typer.Option(min=1, help="Number of layers.")] = 6,
    heads: Annotated[int, typer.Option(min=1, help="Number of attention heads; must divide the width.")] = 4,
    context: Annotated[int, typer.Option(min=64, help="Maximum length of a text, in tokens.")] = 1024,
) -> None:
    """Write a small untrained model with a tokenizer learned from a run's documents; `mixcpt run` then trains it.

    Use it for experiments that need a base model with a known past: it has read no text yet.

    ```
    mixcpt new-base my.yaml --hidden 128 --layers 4
    ```
    """
    from mixcpt.bases.new_base import Shape, write_new_base
    from mixcpt.curation.pipeline import curate

    settings = load_config(config)
    folder = Path(settings.base.model).expanduser()
    corpus = curate(settings.curation, seed=settings.data_seed, store=ArtifactStore(settings.runtime.store))
    shape = Shape(vocabulary=vocabulary, hidden=hidden, layers=layers, heads=heads, context=context)
    num_parameters = write_new_base(folder, corpus, shape, seed=settings.seed)
    out.print(
        f"wrote {folder}: {num_parameters:,} parameters, untrained", markup=False, highlight=False, soft_wrap=True
    )
