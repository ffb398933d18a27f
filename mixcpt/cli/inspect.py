"""`mixcpt report`: one page about runs that are in the store."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from mixcpt.artifacts import ArtifactStore
from mixcpt.cli.console import Store, explain_errors, out


@explain_errors
def report(
    runs: Annotated[list[str], typer.Argument(help="Names or fingerprints of runs; several are shown side by side.")],
    store: Store = ".mixcpt",
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Write one self-contained HTML page: what went in, what was learned, what was forgotten, at what cost."""
    from mixcpt.report.page import write_report
    from mixcpt.runs import find_run

    artifacts = ArtifactStore(store)
    written = write_report([find_run(artifacts, name) for name in runs], artifacts, output)
    out.print(f"wrote {written}", markup=False, highlight=False)
    if show:
        webbrowser.open(written.resolve().as_uri())
