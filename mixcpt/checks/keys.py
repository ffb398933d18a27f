"""Keys of a run's settings as they stand in another file, such as a comparison with the run under `settings`."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from pydantic import BaseModel

from mixcpt.checks.findings import Finding
from mixcpt.config import AdaptConfig, AdviseConfig, CompareConfig, ReadaptConfig, Settings

Place: TypeAlias = Callable[[str], str]
"""Return a key of the run as the key of the file."""


def place_in(config: Settings) -> Place:
    """Return the place of the keys of the run that is checked in a file; a comparison checks its first contender."""
    match config:
        case CompareConfig():
            own = config.contenders[0].settings
            return lambda key: f"{'contenders[0].settings' if _has(own, key) else 'settings'}.{key}"
        case AdviseConfig():
            return lambda key: f"settings.{key}"
        case ReadaptConfig():
            return lambda key: f"adapt.{key}"
    return str


def placed(finding: Finding, place: Place) -> Finding:
    """Return a finding with the keys of the file in its problem and its remedy."""
    problem, remedy = (_KEY.sub(lambda match: place(match[0]), text) for text in (finding.problem, finding.remedy))
    return replace(finding, problem=problem, remedy=remedy)


def _has(settings: Mapping[str, Any], key: str) -> bool:
    """Return whether nested settings have a key path; list indices are ignored."""
    value: Any = settings
    for name in re.sub(r"\[\d+\]", "", key).split("."):
        if isinstance(value, list | tuple):
            return True  # the whole list is given
        if not isinstance(value, Mapping) or name not in value:
            return False
        value = value[name]
    return True


def _sections() -> Iterator[str]:
    """Yield one pattern per section for its keys, so that no name of a file is taken for a key."""
    for section, field in AdaptConfig.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield rf"{section}\.(?:{'|'.join(field.annotation.model_fields)})\b"


_KEY = re.compile(rf"(?<![\w./-])(?:{'|'.join(_sections())})(?:\[\d+\]|\.[a-z_]+\b)*")
