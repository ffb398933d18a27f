"""`mixcpt lineage`: the data of a model, or the models that a document reached."""

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
        str, typer.Option(help="Instead of a model: id, file, or part of the text of a document.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a tree.")] = False,
    store: Store = ".mixcpt",
) -> None:
    """Show the origin of a model (runs, base, mixture, corpora, files), or the models trained on a document.

    The lineage comes from the records that every stage writes to the store when it publishes its result.

    ```
    mixcpt lineage my-run
    mixcpt lineage --document "The femur is"
    ```
    """
    from mixcpt.report.ancestry import ancestry_tree, runs_of, trace_document

    if bool(model) == bool(document):
        raise ConfigError("give a model, or --document", "e.g. mixcpt lineage my-run, or --document book/d17")
    artifacts = ArtifactStore(store)
    catalogue = Catalogue(artifacts)
    if document:
        matches = trace_document(catalogue, document)
        if not matches:
            problem = f"no corpus of {artifacts.root} has a document like {document!r}"
            raise ConfigError(problem, "give its id, its file or words of its text, or another --store")
        data = [match.to_json(catalogue) for match in matches]
        trees = [match.to_tree(catalogue) for match in matches]
    else:
        source = named.named_model(artifacts, model)
        artifact = _artifact(catalogue, source)
        node = ancestry_tree(catalogue, artifact)
        runs = runs_of(catalogue, artifact)
        data = [{"model": source.to_json(), "runs": runs, **node.to_json()}]
        head = Tree(Text(f"{model}: in {', '.join(runs) or 'no run'}"))
        head.add(node.to_tree())
        trees = [head]
    if as_json:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    for tree in trees:
        out.print(tree)


def _artifact(catalogue: Catalogue, model: ModelRef) -> ArtifactRef:
    if artifact := catalogue.find(model.digest):
        return artifact
    raise ConfigError(f"{model.path} has no record in this store", "name the store that made it with --store")
