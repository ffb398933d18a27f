"""`mixcpt export`: write a model and its card as a folder that other tools load, and push it to a hub on request."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from mixcpt.cli import named
from mixcpt.cli.console import Store, explain_errors, print_line, print_note
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import ArtifactStore


@explain_errors
def export(
    model: Annotated[str, Argument(help=named.HELP)],
    output: Annotated[Path, Argument(help="Folder to write; it must be new or empty.")],
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Option(help="Number format of the weights; auto keeps the present one."),
    ] = "auto",
    max_shard_size: Annotated[str, Option(help="Maximum size of one safetensors file, e.g. 500MB.")] = "5GB",
    push_to: Annotated[
        str,
        Option(
            metavar="OWNER/NAME",
            help="Also push the folder to this hub repository, with HF_TOKEN or the login of `hf auth login`.",
        ),
    ] = "",
    public: Annotated[
        bool, Option("--public", help="With --push-to: make the repository public, not private.")
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
        print_note(f"logged in to the hub as {require_login(push_to)}")
    from mixcpt.report.cards import card_of
    from mixcpt.serving.export import export_model, require_empty

    require_empty(output)
    artifacts = ArtifactStore(store)
    source = named.named_model(artifacts, model)
    card = card_of(source, artifacts)
    exported = export_model(source, output, card=card, dtype=dtype, max_shard_size=max_shard_size)
    print_line(f"wrote {output}: {source.name}, digest {exported.digest[:12]}")
    if push_to:
        print_line(push(output, push_to, is_public=public))
