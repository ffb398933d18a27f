"""Build dataclasses from the JSON that stages publish."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from mixcpt.store.artifacts import ArtifactRef

Record = TypeVar("Record")


def from_fields(record_class: type[Record], data: Mapping[str, Any], **converted: Any) -> Record:
    """Return an instance of a dataclass from the entries of `data` that are fields of it; ignore all others.

    Args:
        record_class: Dataclass to build. Its defaults replace entries that older artifacts lack.
        data: JSON object.
        converted: Values that take precedence over `data`, such as nested dataclasses.
    """
    known = {field.name for field in fields(record_class)}  # type: ignore[arg-type]
    return record_class(**{name: value for name, value in data.items() if name in known} | converted)


def read_object(ref: ArtifactRef, name: str) -> dict[str, Any]:
    """Return the JSON object in a file of an artifact."""
    content: dict[str, Any] = json.loads(ref.file(name).read_text(encoding="utf-8"))
    return content
