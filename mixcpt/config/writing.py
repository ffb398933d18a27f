"""Settings as commented YAML: the help text of a field stands above its key."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml
from pydantic import BaseModel

_WIDTH = 110
_INDENT = "  "


def to_yaml(
    config: BaseModel,
    *,
    only_set: bool = False,
    comments: bool = True,
    reasons: Mapping[str, str] | None = None,
    sections: Mapping[str, BaseModel] | None = None,
) -> str:
    """Return the settings as YAML that loads back into an equal object.

    Args:
        config: Any settings object.
        only_set: Whether to leave out settings that were not given explicitly.
        comments: Whether to write the help text of a field above its key.
        reasons: Reasons for values by key path, such as `pretrain.precision`; written below the help text.
        sections: Settings objects, by key path, to write with their help texts in place of plain mappings.
    """
    style = _Style(only_set=only_set, comments=comments, reasons=reasons or {}, sections=sections or {})
    return "\n".join(_mapping(config, "", style)) + "\n"


@dataclass(frozen=True, kw_only=True)
class _Style:
    only_set: bool
    comments: bool
    reasons: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, BaseModel] = field(default_factory=dict)
    path: str = ""
    """Key path of the section that is written, with a dot at its end."""


def _mapping(config: BaseModel, indent: str, style: _Style) -> Iterator[str]:
    fields = type(config).model_fields
    for name in sorted(fields, key=lambda name: name != "kind"):  # the choice comes first
        description = fields[name].description
        if style.only_set and name not in config.model_fields_set and name != "kind":
            continue
        if style.comments and description and name != "kind":
            yield from _comment(description, indent)
        if reason := style.reasons.get(style.path + name):
            yield from _comment(f"-> {reason}", indent)
        deeper = replace(style, path=f"{style.path}{name}.")
        value = style.sections.get(style.path + name, getattr(config, name))
        yield from _entry(f"{indent}{name}:", value, indent, deeper)


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _entry(key: str, value: Any, indent: str, style: _Style) -> Iterator[str]:
    deeper = indent + _INDENT
    if isinstance(value, BaseModel):
        lines = list(_mapping(value, deeper, style))
        yield key if lines else f"{key} {{}}"
        yield from lines
    elif isinstance(value, tuple) and value and all(isinstance(item, BaseModel) for item in value):
        yield key
        for index, item in enumerate(value):
            # The first item of a list is explained; the others have the same fields.
            of_item = replace(style, comments=style.comments and index == 0, path=f"{style.path}{index}.")
            lines = list(_mapping(item, deeper + _INDENT, of_item))
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
