"""Renamed and removed settings: old files are refused with the new key, old records load, fingerprints stay equal."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mixcpt.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
Translate = Callable[[type[BaseModel], dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class RemovedKey:
    """A setting that no longer exists."""

    value: Any
    """The supported value, which fingerprints still contain."""
    reason: str
    """Reason why the key is refused in a file."""
    is_ignored: bool = False
    """Whether a record with another value still loads, because the value has no effect."""


RENAMED_KEYS: Mapping[str, Mapping[str, str]] = {
    "Claim": {"says": "statement"},
    "RetentionConfig": {"act": "action", "sure": "confidence"},
}
"""New names of renamed keys, by settings class and old name."""

REMOVED_KEYS: Mapping[str, Mapping[str, RemovedKey]] = {
    "StreamConfig": {
        "divergence": RemovedKey("forward", "forward KL is the only divergence"),
        "beta": RemovedKey(0.5, "it belonged to the divergence jsd, which was removed", is_ignored=True),
    }
}
"""Removed keys, by settings class and old name."""

_ADDED_TO_ALIGNMENT: Mapping[str, Any] = {
    "scope": {"kind": "full"},
    "precision": "pretrain",
    "gradient_checkpointing": False,
    "divergence": "stop",
}
ADDED_KEYS: Mapping[str, Mapping[str, Any]] = {
    "BitsPerByteTask": {"passage_characters": 0},
    "CurationConfig": {"heldout_instructions": 0, "max_lost_fraction": 0.01},
    "DpoConfig": _ADDED_TO_ALIGNMENT,
    "MultipleChoiceTask": {"choice_fields": [], "indices_from": "detected"},
    "PretrainConfig": {"divergence": "stop", "packing": "auto"},
    "RuntimeConfig": {"with_traditional": False},
    "SelectionConfig": {"precision": "pretrain"},
    "SftConfig": _ADDED_TO_ALIGNMENT,
}
"""Keys added after the first release, by settings class, each with the value that changes nothing. Fingerprints leave
out a key with this value, so that they equal the ones of the versions without the key."""

UNRECORDED_KEYS: Mapping[str, frozenset[str]] = {"AdaptConfig": frozenset({"tracking"})}
"""Keys that no fingerprint contains, by settings class, because no value changes a result."""


@dataclass(frozen=True)
class PartOf:
    """Annotation of a field that holds some keys of a settings class as plain values."""

    model: type[BaseModel]
    """Settings class that the keys belong to."""


def old_key_problems(model: type[BaseModel], data: Mapping[str, Any]) -> Iterator[str]:
    """Yield one message for each old key among the keys of a settings class."""
    for old, new in RENAMED_KEYS.get(model.__name__, {}).items():
        if old in data:
            yield f"the key {old} was renamed to {new}"
    for old, removed in REMOVED_KEYS.get(model.__name__, {}).items():
        if old in data:
            yield f"the key {old} was removed: {removed.reason}; delete it"


def read_stored(model: type[Model], data: Mapping[str, Any]) -> Model:
    """Return the settings of a record, which may have been written with old keys.

    Raises:
        ConfigError: If the record has a value that is no longer supported.
    """
    return model.model_validate(_translated(model, data, _with_new_names))


def with_first_names(model: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dump of settings with the keys that fingerprints contain: those before any renaming or removal."""
    return _translated(model, data, _with_old_names)


def _with_new_names(model: type[BaseModel], data: dict[str, Any]) -> dict[str, Any]:
    removed = REMOVED_KEYS.get(model.__name__, {})
    for key in removed.keys() & data.keys():
        if data[key] != removed[key].value and not removed[key].is_ignored:
            raise ConfigError(
                f"a record has {key}: {data[key]}, which is no longer supported: {removed[key].reason}",
                "read the record with the version of mixcpt that wrote it",
            )
    renamed = RENAMED_KEYS.get(model.__name__, {})
    return {renamed.get(key, key): value for key, value in data.items() if key not in removed}


def _with_old_names(model: type[BaseModel], data: dict[str, Any]) -> dict[str, Any]:
    old_names = {new: old for old, new in RENAMED_KEYS.get(model.__name__, {}).items()}
    old = {old_names.get(key, key): value for key, value in data.items()}
    if data.keys() >= model.model_fields.keys():  # settings that name only some keys had no removed ones either
        old |= {key: removed.value for key, removed in REMOVED_KEYS.get(model.__name__, {}).items()}
    neutral = ADDED_KEYS.get(model.__name__, {})
    recorded = {key: value for key, value in old.items() if key not in UNRECORDED_KEYS.get(model.__name__, ())}
    return {key: value for key, value in recorded.items() if key not in neutral or value != neutral[key]}


def _translated(model: type[BaseModel], data: Mapping[str, Any], translate: Translate) -> dict[str, Any]:
    """Return a copy of `data` after `translate` on every mapping that is a settings class, innermost first."""
    new_names = RENAMED_KEYS.get(model.__name__, {})
    result = {}
    for key, value in data.items():
        field = model.model_fields.get(new_names.get(key, key))
        result[key] = _translated_value(field, value, translate) if field else value
    return translate(model, result)


def _translated_value(field: FieldInfo, value: Any, translate: Translate) -> Any:
    if isinstance(value, list | tuple):
        return [_translated_value(field, item, translate) for item in value]
    model = _model_of(field, value) if isinstance(value, Mapping) else None
    return _translated(model, value, translate) if model else value


def _model_of(field: FieldInfo, value: Mapping[str, Any]) -> type[BaseModel] | None:
    """Return the settings class of a field's value: the member of a union with its `kind`, or the only class."""
    parts = [annotation.model for annotation in field.metadata if isinstance(annotation, PartOf)]
    models = [*_models(field.annotation), *parts]
    by_kind = {model.model_fields["kind"].default: model for model in models if "kind" in model.model_fields}
    return by_kind.get(value.get("kind")) if by_kind else next(iter(models), None)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings classes in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return list(chain.from_iterable(_models(part) for part in get_args(annotation)))
