"""Parsing of YAML that people write: repeated keys, values that contain themselves, and huge files are refused."""

from collections.abc import Hashable
from typing import Any

import yaml

MAX_BYTES = 1_000_000
"""Largest file of settings; a larger one takes minutes to parse and is no file of settings."""
_MAX_VALUES = 1_000_000
"""Largest number of values after aliases are replaced by the values that they name."""


class BadYaml(Exception):
    """A text is no YAML, or not one that settings can be read from."""


def parse(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        BadYaml: If it has an error, a key twice in one section, too many values, or a value that contains itself.
    """
    if len(text) > MAX_BYTES:
        raise BadYaml(f"it has {len(text):,} characters; settings have at most {MAX_BYTES:,}")
    try:
        value = yaml.load(text, _Loader)
        num_values = _count(value, {})
    except RecursionError:
        raise BadYaml("its values are nested too deeply") from None
    except yaml.YAMLError as error:
        raise BadYaml(str(error)) from None
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:  # dates and numbers that do not exist
        raise BadYaml(f"a value cannot be read: {error}") from None
    if num_values > _MAX_VALUES:
        raise BadYaml(f"its aliases make {num_values:.1e} values; settings have at most {_MAX_VALUES:,}")
    return value


class _Loader(yaml.SafeLoader):
    """Loader that refuses a key that a section has twice; YAML would drop all but the last value."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[Hashable, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                first = f"the first is in line {lines[key.value]}"
                problem = f"the key {key.value!r} is given twice; {first}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node


def _count(value: Any, counts: dict[int, int]) -> int:
    """Return the number of values within a value; each shared value is looked at once."""
    if not isinstance(value, dict | list | tuple | set):
        return 1
    known = counts.get(id(value))
    if known == 0:
        raise BadYaml("a value contains itself")
    if known is None:
        counts[id(value)] = 0
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known = counts[id(value)] = 1 + sum(_count(part, counts) for part in parts)
    return known
