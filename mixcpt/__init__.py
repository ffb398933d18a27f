"""Teach an open-weight language model a new domain without losing the knowledge that it has.

The names below are loaded when they are first used, so that `import mixcpt` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixcpt.api import adapt, results_table, write_report
    from mixcpt.config import AdaptConfig, load_config
    from mixcpt.records.run import RunResult

__version__ = "0.1.0"
__all__ = ["AdaptConfig", "RunResult", "adapt", "load_config", "results_table", "write_report"]

_HOMES = {
    "AdaptConfig": "mixcpt.config",
    "RunResult": "mixcpt.records.run",
    "adapt": "mixcpt.api",
    "load_config": "mixcpt.config",
    "results_table": "mixcpt.api",
    "write_report": "mixcpt.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
