"""`mixcpt report`, `ledger` and `lineage`: learned and forgotten facts of runs, and the origin of models."""

import json
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from rich.tree import Tree
from typer import Argument, Option

from mixcpt.cli import named
from mixcpt.cli.console import Store, explain_errors, out, print_line
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.lineage import Catalogue

_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("to_csv", {"index": False}),
    ".jsonl": ("to_json", {"orient": "records", "lines": True, "force_ascii": False}),
    ".parquet": ("to_parquet", {"index": False}),
}
"""File endings with the pandas method that writes them and its options."""


@explain_errors
def ledger(
    run: Annotated[str, Argument(help="Name or fingerprint of a run.")],
    store: Store = ".mixcpt",
    output: Annotated[Path | None, Option(help="File for all facts: csv, jsonl or parquet.")] = None,
) -> None:
    """Count the facts of a run by their change: learned, half-learned, unchanged, contradicted, forgotten.

    ```
    mixcpt ledger my-run --output facts.csv
    ```
    """
    from mixcpt.evaluate.statistics.ledger import counts
    from mixcpt.evaluate.statistics.ledger import ledger as facts_of
    from mixcpt.records.run import find_run
    from mixcpt.report.table import counts_table
    from mixcpt.report.view import located

    if output and output.suffix not in _FORMATS:
        raise ConfigError(f"--output {output}: unknown ending {output.suffix!r}", f"use one of {', '.join(_FORMATS)}")
    artifacts = ArtifactStore(store)
    record = located(find_run(artifacts, run), artifacts)
    rows = facts_of(record.evaluations["base"], record.evaluations["final"], record.refs["corpus"])
    out.print(counts_table(counts(rows), f"Facts of {record.name}, base against final model"))
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        write, options = _FORMATS[output.suffix]
        getattr(rows, write)(output, **options)
        print_line(f"wrote {output}")


@explain_errors
def report(
    runs: Annotated[list[str], Argument(help="Names or fingerprints of runs; several are compared on one page.")],
    store: Store = ".mixcpt",
    output: Annotated[Path, Option(help="HTML file to write.")] = Path("report.html"),
    show: Annotated[bool, Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Write one self-contained HTML page about runs: data, learned and forgotten knowledge, and cost.

    ```
    mixcpt report my-run other-run --output both.html --open
    ```
    """
    from mixcpt.records.run import find_run
    from mixcpt.report.page import write_report

    artifacts = ArtifactStore(store)
    written = write_report([find_run(artifacts, name) for name in runs], artifacts, output)
    print_line(f"wrote {written}")
    if show:
        webbrowser.open(written.resolve().as_uri())


@explain_errors
def lineage(
    model: Annotated[str, Argument(help=named.HELP)] = "",
    document: Annotated[str, Option(help="Instead of a model: id, file, or part of the text of a document.")] = "",
    as_json: Annotated[bool, Option("--json", help="Print JSON instead of a tree.")] = False,
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
        artifact = catalogue.find(source.digest)
        if not artifact:
            raise ConfigError(f"{source.path} has no record in this store", "name the store that made it with --store")
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
