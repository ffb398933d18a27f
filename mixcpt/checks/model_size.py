"""Size of a model from the headers of its weights, without reading them."""

import json
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mixcpt.config import CLOSED_WORLD_BASE, BaseModelConfig
from mixcpt.store.models import CLOSED_WORLD_PATH

_MAX_HEADER_BYTES = 100 * 2**20
"""Limit of the safetensors format."""
_SIZE_IN_NAME = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([KMB])(?![A-Za-z0-9])", re.IGNORECASE)
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Figures of a model that decide about defaults."""

    num_parameters: int = 0
    """Number of parameters; 0 if it is unknown."""
    context_tokens: int = 0
    """Context length; 0 if it is unknown."""
    has_chat_template: bool | None = None
    """Whether the model has a chat template; None if it is unknown."""

    def __str__(self) -> str:
        return count_text(self.num_parameters) if self.num_parameters else "an unknown number of"


def count_text(number: int) -> str:
    """Return a number of parameters in words, such as `1.2 billion`."""
    for limit, name in ((1e9, "billion"), (1e6, "million")):
        if number >= limit:
            return f"{number / limit:.3g} {name}"
    return f"{number:,}"


def model_size(base: BaseModelConfig) -> ModelSize:
    """Return the size of a local or downloaded model; that of another hub model is read from its name."""
    folder = _local_folder(base)
    if folder:
        return folder_size(folder)
    if match := _SIZE_IN_NAME.search(base.model.rpartition("/")[2]):
        return ModelSize(num_parameters=round(float(match[1]) * _UNITS[match[2].upper()]))
    return ModelSize()


def folder_size(folder: Path) -> ModelSize:
    """Return the size of a model folder; figures that its files do not state are unknown."""
    config = _read_json(folder / "config.json")
    context = config.get("max_position_embeddings") or config.get("n_positions") or 0
    templates = (folder / "chat_template.jinja", folder / "chat_template.json")
    has_template = any(path.is_file() for path in templates)
    return ModelSize(
        num_parameters=sum(map(_num_elements, sorted(folder.glob("*.safetensors")))),
        context_tokens=context if isinstance(context, int) else 0,
        has_chat_template=has_template or bool(_read_json(folder / "tokenizer_config.json").get("chat_template")),
    )


def _local_folder(base: BaseModelConfig) -> Path | None:
    if base.model == CLOSED_WORLD_BASE:
        return CLOSED_WORLD_PATH
    folder = Path(base.model).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(base.model, "config.json", revision=base.revision or None)
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _num_elements(path: Path) -> int:
    """Return the number of elements of a safetensors file; 0 if its header cannot be read."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= _MAX_HEADER_BYTES else {}
        return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return 0


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
