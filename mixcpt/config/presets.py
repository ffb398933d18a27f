"""Presets: files with the settings of a run, which ship with mixcpt or belong to the user."""

import os
from pathlib import Path

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.loading import load_config
from mixcpt.errors import ConfigError

_BUNDLED = Path(__file__).parents[1] / "_project"
PROJECT_ROOT = _BUNDLED if _BUNDLED.is_dir() else Path(__file__).parents[2]
"""Folder with `flows/`, `tasks/` and `deployments/`: the checkout, or the copy inside an installed wheel.

A wheel ships the three folders below `mixcpt/_project`, so that it installs no top-level package with a name as common
as `tasks`.
"""
SHIPPED_PRESETS = PROJECT_ROOT / "deployments" / "configs"
OWN_PRESETS = "MIXCPT_PRESETS"
"""Environment variable with the folder of the user's presets."""
AUTOMATIC = "automatic"
"""Name of the settings that follow from the model, the documents and the machine."""


def own_presets(store: Path | str) -> Path:
    """Return the folder of the user's presets in a store."""
    return Path(store).expanduser() / "presets"


def preset_names(own: Path | None = None) -> list[str]:
    """Return the names of all presets: the user's own, `automatic`, and the shipped ones.

    Args:
        own: Folder of the user's presets; None means the folder that the environment names.
    """
    folder = own or Path(os.environ.get(OWN_PRESETS, "") or os.devnull)
    return list(dict.fromkeys([*_names(folder), AUTOMATIC, *_names(SHIPPED_PRESETS)]))


def load_preset(name: str, store: Path | str) -> AdaptConfig:
    """Return the settings of a preset; one of the user's has priority over one that ships with mixcpt.

    Raises:
        ConfigError: If there is no such preset, or its settings are not valid.
    """
    folders = (own_presets(store), SHIPPED_PRESETS)
    for folder in folders:
        if (path := folder / f"{name}.yaml").is_file():
            return load_config(path)
    known = ", ".join(preset_names(folders[0]))
    raise ConfigError(f"preset: there is no preset {name!r}; the presets are {known}", f"or add one to {folders[0]}")


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))
