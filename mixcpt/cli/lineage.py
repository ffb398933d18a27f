"""`mixcpt lineage`: which data made this model, and which models has this document reached?"""

import json
from typing import Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from mixcpt.cli import named
from mixcpt.cli.console import Store, explain_errors, out
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.lineage import Catalogue
from mixcpt.store.models import ModelRef


@explain_errors
def lineage(
    model: Annotated[str, typer.Argument(help=named.HELP)] = "",
    document: Annotated[
        str, typer.Option(help="Instead of a model: a document's id, its file, or words of its text.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    store: Store = ".mixcpt",
) -> None:
    """Show what a model was made of: runs, base, mixture, corpora, down to the files; or where a document went.

    It is read from the records of the store, which each stage wrote when it published: nothing is trusted to memory,
    and a model that was promoted by hand has its lineage too.
    """
    from mixcpt.report.ancestry import descent, reached, runs_of

    if bool(model) == bool(document):
        raise ConfigError("give a model, or --document", "e.g. mixcpt lineage my-run, or --document book/d17")
    artifacts = ArtifactStore(store)
    catalogue = Catalogue(artifacts)
    if document:
        found = reached(catalogue, document)
        if not found:
            raise ConfigError(f"no corpus of {artifacts.root} has a document like {document!r}")
        data = [each.to_json(catalogue) for each in found]
        trees = [each.to_tree(catalogue) for each in found]
    else:
        source = named.named_model(artifacts, model)
        made = _made(catalogue, source)
        node = descent(catalogue, made)
        runs = runs_of(catalogue, made)
        data = [{"model": source.to_json(), "runs": runs, **node.to_json()}]
        head = Tree(Text(f"{model}: in {', '.join(runs) or 'no run'}"))
        head.add(node.to_tree())
        trees = [head]
    if as_json:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    for tree in trees:
        out.print(tree)


def _made(catalogue: Catalogue, model: ModelRef) -> ArtifactRef:
    if made := catalogue.find(model.digest):
        return made
    raise ConfigError(f"{model.path} was not made in this store, so nothing is known of its past", "name its --store")
