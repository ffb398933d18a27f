"""`mixcpt new-base`: a model to begin with."""

from pathlib import Path
from typing import Annotated

import typer

from mixcpt.cli.console import explain_errors, out
from mixcpt.config import load_config
from mixcpt.store.artifacts import ArtifactStore

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
    from mixcpt.bases.new_base import Shape, write_new_base
    from mixcpt.curation import curate

    settings = load_config(config)
    folder = Path(settings.base.model).expanduser()
    corpus = curate(settings.curation, seed=settings.data_seed, store=ArtifactStore(settings.runtime.store))
    shape = Shape(vocabulary, hidden, layers, heads, context)
    num_parameters = write_new_base(folder, corpus, shape, seed=settings.seed)
    out.print(
        f"wrote {folder}: {num_parameters:,} parameters, untrained", markup=False, highlight=False, soft_wrap=True
    )
