"""`mixcpt forms`: list the forms of generated texts, or print one to edit."""

from typing import Annotated

import typer
from rich.table import Table

from mixcpt.cli.console import explain_errors, out, print_line
from mixcpt.rewrite.forms import form_file, shipped_forms


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
        typer.echo(form_file(name).read_text(encoding="utf-8"), nl=False)
        return
    table = Table("form", "length", "effect")
    for form in shipped_forms():
        table.add_row(form.name, f"{form.length:g} x", form.purpose)
    out.print(table)
    print_line("print one: mixcpt forms questions > my-form.yaml; use it: rewrite: {forms: [my-form.yaml]}")
