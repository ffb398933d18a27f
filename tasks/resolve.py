"""Resolves a name of MLflow's registry to weights: `NAME@ALIAS`, `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

`python -m tasks.resolve NAME --store FOLDER` prints the weights as one JSON line, for the command line, which does not
import MLflow.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mixcpt.config import RuntimeConfig
from mixcpt.errors import ConfigError, MixcptError, ModelError
from mixcpt.store.models import ModelRef
from tasks.stage_runs import DIGEST, WEIGHTS
from tasks.tracking import Place, open_tracking

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_PREFIX = "models:/"
_FORMS = "a registered model is NAME@ALIAS, models:/NAME@ALIAS or models:/NAME/VERSION"


def resolve(name: str, runtime: RuntimeConfig) -> ModelRef:
    """Return the registered model of that name: the folder of its weights, and their digest at registration.

    Raises:
        ConfigError: If the name has another form, or MLflow has no such model, alias or version.
        ModelError: If the version was not registered by mixcpt, or its weights are on another machine.
    """
    version = _find(name, Place.of(runtime))
    weights, digest = version.tags.get(WEIGHTS, ""), version.tags.get(DIGEST, "")
    address = urlsplit(weights)
    if not digest or address.scheme != "file":
        raise ModelError(
            f"version {version.version} of {version.name} has no folder of weights in its tag {WEIGHTS}: {weights!r}",
            "name a version that a run of mixcpt registered",
        )
    return ModelRef(f"{version.name} version {version.version}", unquote(address.path), digest)


def _find(name: str, place: Place) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    model, alias, number = _parse(name)
    path = Path(place.uri.removeprefix("sqlite:///"))
    if place.uri.startswith("sqlite:///") and not path.is_file():  # connecting would create it
        raise ConfigError(f"no model is registered: {path} does not exist", "set MLFLOW_TRACKING_URI or --store")
    client = open_tracking(place).client
    try:
        return client.get_model_version_by_alias(model, alias) if alias else client.get_model_version(model, number)
    except MlflowException as error:
        raise ConfigError(
            f"MLflow at {place.uri} has no model {name}: {error.message}",
            f"{_FORMS}; a model of a run is RUN@base, @pretrained, @sft or @dpo",
        ) from error


def _parse(name: str) -> tuple[str, str, str]:
    """Return name, alias and version; either alias or version is empty."""
    short = name.removeprefix(_PREFIX)
    model, _, alias = short.rpartition("@")
    if model and alias:
        return model, alias, ""
    model, _, number = short.rpartition("/")
    if model and number.isdigit():
        return model, "", number
    raise ConfigError(f"{name!r} is not the name of a registered model", _FORMS)


def main() -> None:
    """Print the registered model, or the error, as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--store", default=RuntimeConfig().store)
    arguments = parser.parse_args()
    try:
        output = resolve(arguments.name, RuntimeConfig(store=arguments.store)).to_json()
    except MixcptError as error:
        output = {"error": type(error).__name__, "problem": error.problem, "hint": error.hint}
    print(json.dumps(output))


if __name__ == "__main__":
    main()
