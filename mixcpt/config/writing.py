"""Settings as commented YAML: the help text of a field stands above its key."""

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

_WIDTH = 110
_INDENT = "  "


def to_yaml(config: BaseModel, *, only_set: bool = False, comments: bool = True) -> str:
    """Return the settings as YAML that loads back into an equal object.

    Args:
        config: Any settings object.
        only_set: Whether to leave out settings that were not given explicitly.
        comments: Whether to write the help text of a field above its key.
    """
    return "\n".join(_mapping(config, "", only_set, comments)) + "\n"


def _mapping(config: BaseModel, indent: str, only_set: bool, comments: bool) -> Iterator[str]:
    fields = type(config).model_fields
    for name in sorted(fields, key=lambda name: name != "kind"):  # the choice comes first
        field = fields[name]
        if only_set and name not in config.model_fields_set and name != "kind":
            continue
        if comments and field.description and name != "kind":
            yield from textwrap.wrap(
                " ".join(field.description.split()),
                _WIDTH,
                initial_indent=f"{indent}# ",
                subsequent_indent=f"{indent}# ",
            )
        yield from _entry(f"{indent}{name}:", getattr(config, name), indent, only_set, comments)


def _entry(key: str, value: Any, indent: str, only_set: bool, comments: bool) -> Iterator[str]:
    deeper = indent + _INDENT
    if isinstance(value, BaseModel):
        lines = list(_mapping(value, deeper, only_set, comments))
        yield key if lines else f"{key} {{}}"
        yield from lines
    elif isinstance(value, tuple) and value and all(isinstance(item, BaseModel) for item in value):
        yield key
        for index, item in enumerate(value):
            # The first item of a list is explained; the others have the same fields.
            lines = list(_mapping(item, deeper + _INDENT, only_set, comments and index == 0))
            first = next(number for number, line in enumerate(lines) if not line.lstrip().startswith("#"))
            lines[first] = f"{deeper}- {lines[first].lstrip()}"
            yield from lines
    else:
        yield f"{key} {_scalar(value)}"


def _scalar(value: Any) -> str:
    """Return a plain value as one line of YAML."""
    if isinstance(value, tuple):
        value = list(value)
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    text = yaml.safe_dump(value, default_flow_style=True, default_style=style, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
