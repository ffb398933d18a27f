"""The folder with the flows, tasks and deployments: the checkout, or the copy inside an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def project_root() -> Path:
    """Return the folder with `flows/`, `tasks/` and `deployments/`.

    A wheel ships the three folders below `mixcpt/_project`, so that it installs no top-level package with a name as
    common as `tasks`. Processes that run flows get this folder in their PYTHONPATH.
    """
    bundled = _PACKAGE / "_project"
    return bundled if bundled.is_dir() else _PACKAGE.parent
