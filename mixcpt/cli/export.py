"""`mixcpt export`: write a model and its card as a folder that other tools load, and push it to a hub on request."""

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
    output: Annotated[Path, typer.Argument(help="Folder to write; it must be new or empty.")],
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Number format of the weights; auto keeps the present one."),
    ] = "auto",
    max_shard_size: Annotated[str, typer.Option(help="Maximum size of one safetensors file, e.g. 500MB.")] = "5GB",
    push_to: Annotated[
        str,
        typer.Option(
            metavar="OWNER/NAME",
            help="Also push the folder to this hub repository, with HF_TOKEN or the login of `hf auth login`.",
        ),
    ] = "",
    public: Annotated[
        bool, typer.Option("--public", help="With --push-to: make the repository public. Default: private.")
    ] = False,
    store: Store = ".mixcpt",
) -> None:
    """Write a model as a Hugging Face folder: weights, tokenizer, chat template, model card.

    Before the folder appears, it is loaded again and must give exactly the logits of the source. Its README.md states
    the data, the learned and forgotten facts, and the cost, from the records of the store; add the licence yourself.
    docs/serving.md has the commands for vLLM and llama.cpp.

    ```
    mixcpt export my-run ./my-model --dtype bfloat16
    ```
    """
    from mixcpt.serving.push import push, require_login

    if public and not push_to:
        raise ConfigError("--public pushes nothing by itself", "name the repository: --push-to OWNER/NAME --public")
    if push_to:  # first: a refused login must not waste an export
        err.print(f"logged in to the hub as {require_login(push_to)}", markup=False, highlight=False)
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
