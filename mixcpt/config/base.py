"""What all settings share: frozen, strict, explained by the docstrings under their fields."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


class Settings(BaseModel):
    """Inert settings: unknown keys are refused, values never change, field docstrings become the form's help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )


def kind(name: str) -> Any:
    """Returns the field that tells the members of a union apart; the enum lets the Prefect form show it."""
    return Field(name, json_schema_extra={"enum": [name]}, description="Which of the choices this is.")
