"""`mixcpt forms`: list the forms of generated texts, or print one to edit."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mixcpt.cli.console import explain_errors, out
from mixcpt.rewrite.forms import FOLDER, load_forms, shipped_forms


@explain_errors
def forms(
    name: Annotated[
        str, typer.Argument(help="Name of a form to print as YAML; save it under another name to edit.")
    ] = "",
) -> None:
    """List the forms of text that `rewrite.forms` can name, with their effect, or print one to edit.

    ```
    mixcpt forms questions > my-form.yaml
    ```
    """
    if name:
        load_forms((name,))
        path = FOLDER / f"{name}.yaml"
        typer.echo((path if path.is_file() else Path(name)).read_text(encoding="utf-8"), nl=False)
        return
    table = Table("form", "length", "effect")
    for form in shipped_forms():
        table.add_row(form.name, f"{form.length:g} x", form.purpose)
    out.print(table)
    out.print(
        "print one: mixcpt forms questions > my-form.yaml; use it: rewrite: {forms: [my-form.yaml]}", highlight=False
    )
