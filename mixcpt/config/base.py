"""Base class of all settings: frozen, strict, and explained by the docstrings under their fields."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixcpt.config.renames import old_key_problems, with_first_names

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


class Settings(BaseModel):
    """Inert settings: unknown keys are refused, values never change, field docstrings become the form's help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )

    def identity(self) -> dict[str, Any]:
        """Return the settings as fingerprints contain them: JSON values whose keys no renaming changes."""
        return with_first_names(type(self), self.model_dump(mode="json"))

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and (problems := list(old_key_problems(cls, data))):
            raise ValueError("; and ".join(problems))
        return data


def require_unique(title: str, names: Sequence[str]) -> None:
    """Raise `ValueError` if a name is given twice."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{title} must differ; given twice: {', '.join(twice)}")


def kind(name: str) -> Any:
    """Return the field that distinguishes the members of a union; the enum makes the Prefect form show it."""
    return Field(name, json_schema_extra={"enum": [name]}, description="Name of this choice.")
