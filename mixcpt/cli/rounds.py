"""`mixcpt readapt`, `promote` and `rollback`: a round of re-adaptation, and which model serves."""

from pathlib import Path
from typing import Annotated

import typer

from mixcpt.cli.console import Overrides, Store, explain_errors
from mixcpt.cli.launch import become, write_request
from mixcpt.config import PromoteConfig, RollbackConfig, RuntimeConfig, load_readapt
from mixcpt.planning.preflight import preflight

Because = Annotated[str, typer.Option(help="Why, for whoever reads it in MLflow.")]
Registered = Annotated[str, typer.Option(help="Name of the registered model in MLflow.")]
_RUNTIME = RuntimeConfig()


@explain_errors
def readapt(
    path: Annotated[Path, typer.Argument(help="The YAML file of the rounds: `adapt` holds the settings of a run.")],
    overrides: Overrides = None,
) -> None:
    """Learn what has been registered since the champion was trained; promote the result where the gates hold.

    What earlier rounds learned is read again beside the new; base, champion and candidate are asked the same questions
    about every corpus so far. Without anything new, nothing is done. A round that was stopped goes on.
    """
    config = load_readapt(path, overrides or ())
    preflight(config.adapt)
    become("flows.readapt", [write_request(config.name, config, config.adapt.runtime.store)])


@explain_errors
def promote(
    model: Annotated[str, typer.Argument(help="Number of a version, an alias, or the name of a run.")] = "challenger",
    because: Because = "by hand",
    registered_model: Registered = _RUNTIME.registered_model,
    store: Store = _RUNTIME.store,
) -> None:
    """Make a registered model the champion, if it still answers as it did when it was evaluated.

    Where it does not, the champion before it serves again.
    """
    runtime = RuntimeConfig(store=store, registered_model=registered_model)
    config = PromoteConfig(model=model, because=because, runtime=runtime)
    become("flows.promotion", [write_request("promote", config, store)], "promote")


@explain_errors
def rollback(
    because: Because = "by hand",
    registered_model: Registered = _RUNTIME.registered_model,
    store: Store = _RUNTIME.store,
) -> None:
    """Put the champion before the present one back in its place.

    What the model that is taken back had learned is not learned again by itself; `again` in the settings of the
    rounds names the corpora that shall be.
    """
    runtime = RuntimeConfig(store=store, registered_model=registered_model)
    config = RollbackConfig(because=because, runtime=runtime)
    become("flows.promotion", [write_request("rollback", config, store)], "rollback")
