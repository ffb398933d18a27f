"""`mixcpt export`: a model as a folder that any library loads, with its card; on a hub where that is asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mixcpt.cli import named
from mixcpt.cli.console import Store, err, explain_errors, out
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    from mixcpt.store.models import ModelRef


@explain_errors
def export(
    model: Annotated[str, typer.Argument(help=named.HELP)],
    output: Annotated[Path, typer.Argument(help="The folder to write; it must not exist, or be empty.")],
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Number format of the weights; auto keeps what they have."),
    ] = "auto",
    max_shard_size: Annotated[str, typer.Option(help="Largest safetensors file, e.g. 500MB.")] = "5GB",
    push_to: Annotated[
        str,
        typer.Option(
            metavar="OWNER/NAME",
            help="Push the folder to this repository of the hub too, with HF_TOKEN or the hub's own login.",
        ),
    ] = "",
    public: Annotated[
        bool, typer.Option("--public", help="With --push-to: the repository is public; it is private otherwise.")
    ] = False,
    store: Store = ".mixcpt",
) -> None:
    """Write a model as a Hugging Face folder: weights, tokenizer, chat template, model card.

    The folder is loaded again and has to give the source's logits bit for bit before it appears. Its README.md
    is written from what was recorded: which data, what was learned and forgotten, at what cost; the licence is yours
    to fill in. docs/serving.md has the commands for vLLM and llama.cpp.
    """
    from mixcpt.serving.push import push, require_login

    if public and not push_to:
        raise ConfigError("--public pushes nothing by itself", "say where to: --push-to OWNER/NAME --public")
    if push_to:  # before any work that a refusal would waste
        err.print(f"the hub knows us as {require_login(push_to)}", markup=False, highlight=False)
    from mixcpt.serving.export import export_model, require_empty

    require_empty(output)
    artifacts = ArtifactStore(store)
    source = named.named_model(artifacts, model)
    card = _card(source, artifacts)
    exported = export_model(source, output, card=card, dtype=dtype, max_shard_size=max_shard_size)
    out.print(f"wrote {output}: {source.name}, digest {exported.digest[:12]}", markup=False, soft_wrap=True)
    if push_to:
        out.print(push(output, push_to, is_public=public), markup=False, highlight=False, soft_wrap=True)


def _card(model: "ModelRef", store: ArtifactStore) -> str:
    from mixcpt.report.cards.choice import card_of

    return card_of(model, store)
