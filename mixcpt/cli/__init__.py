"""The command line, `mixcpt`; `app.py` lists its commands."""

from mixcpt.cli.app import app

__all__ = ["app"]
