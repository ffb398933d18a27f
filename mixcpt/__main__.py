"""`python -m mixcpt` is the `mixcpt` program."""

from mixcpt.cli import app

app(prog_name="mixcpt")
