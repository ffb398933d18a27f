"""Conversion of statistics to strict JSON, which has no NaN."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def nan_to_null(row: "DataclassInstance") -> dict[str, Any]:
    """Return the fields of a dataclass, with None for NaN."""
    return {name: None if _is_nan(value) else value for name, value in asdict(row).items()}


def null_to_nan(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields read from JSON, with NaN for None."""
    return {name: math.nan if value is None else value for name, value in data.items()}


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
