"""Identity of a result: a hash of everything that can change it, and of nothing else."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """Return the canonical JSON text of a value: sorted keys, no white space, pydantic models by their fields.

    Raises:
        TypeError: If a value has no stable text, such as a path, a set or an object.
        ValueError: If a number is NaN or infinite.
    """
    return json.dumps(_stable(value, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of `canonical_json(value)` as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _stable(value: Any, where: str) -> Any:
    """Return the value converted to plain JSON values; errors name it `where`."""
    if hasattr(value, "identity"):  # settings: their keys without any later renaming
        value = value.identity()
    elif hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}: a fingerprint needs finite numbers")
        return value
    if isinstance(value, list | tuple):
        return [_stable(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"{where} has a key that is not a string, so it has no stable JSON form")
        return {key: _stable(item, f"{where}.{key}") for key, item in value.items()}
    raise TypeError(f"{where} is a {type(value).__name__}: it has no stable text, so it cannot be part of an identity")
