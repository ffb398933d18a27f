"""`mixcpt report` and `mixcpt ledger`: learned and forgotten facts of finished runs."""

import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from mixcpt.cli.console import Store, explain_errors, out
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import ArtifactStore

_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("to_csv", {"index": False}),
    ".jsonl": ("to_json", {"orient": "records", "lines": True, "force_ascii": False}),
    ".parquet": ("to_parquet", {"index": False}),
}
"""File endings with the pandas method that writes them and its options."""


@explain_errors
def ledger(
    run: Annotated[str, typer.Argument(help="Name or fingerprint of a run.")],
    store: Store = ".mixcpt",
    output: Annotated[Path | None, typer.Option(help="File for all facts: csv, jsonl or parquet.")] = None,
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
        out.print(f"wrote {output}", markup=False, highlight=False)


@explain_errors
def report(
    runs: Annotated[list[str], typer.Argument(help="Names or fingerprints of runs; several are compared on one page.")],
    store: Store = ".mixcpt",
    output: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
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
    out.print(f"wrote {written}", markup=False, highlight=False)
    if show:
        webbrowser.open(written.resolve().as_uri())
