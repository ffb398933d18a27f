"""The command line: `mixcpt demo | init | validate | run | compare | up | report | chat | export | merge | world`."""

from mixcpt.cli.app import app

__all__ = ["app"]
