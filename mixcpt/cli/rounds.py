"""`mixcpt readapt`, `promote` and `rollback`: rounds of re-adaptation and the champion model."""

from pathlib import Path
from typing import Annotated

import typer

from mixcpt.cli.console import Overrides, Store, explain_errors
from mixcpt.cli.launch import become, write_request
from mixcpt.config import PromoteConfig, ReadaptConfig, RollbackConfig, RuntimeConfig, load_settings
from mixcpt.planning.preflight import preflight

Because = Annotated[str, typer.Option(help="Reason, stored in MLflow.")]
Registered = Annotated[str, typer.Option(help="Name of the registered model in MLflow.")]
_RUNTIME = RuntimeConfig()


@explain_errors
def readapt(
    path: Annotated[
        Path, typer.Argument(help="YAML file of the rounds; the settings of a run are in its section adapt.")
    ],
    overrides: Overrides = None,
) -> None:
    """Train on the corpora registered since the champion, and promote the result if it passes the gates.

    Corpora of earlier rounds are replayed. The base, the champion and the candidate answer the same questions about
    every corpus so far. Without new corpora the command does nothing. Run it again to resume after a stop.

    ```
    mixcpt corpus add ./new-documents
    mixcpt readapt rounds.yaml
    ```
    """
    config = load_settings(ReadaptConfig, path, overrides or ())
    preflight(config.adapt)
    become("readapt", [write_request(config.name, config, config.adapt.runtime.store)])


@explain_errors
def promote(
    model: Annotated[str, typer.Argument(help="Version number, alias, or name of a run.")] = "challenger",
    because: Because = "by hand",
    registered_model: Registered = _RUNTIME.registered_model,
    store: Store = _RUNTIME.store,
) -> None:
    """Make a registered model the champion, if it still gives the answers of its evaluation.

    If its answers have changed, the previous champion is restored.

    ```
    mixcpt promote 3 --because "better on the heart questions"
    ```
    """
    runtime = RuntimeConfig(store=store, registered_model=registered_model)
    config = PromoteConfig(model=model, because=because, runtime=runtime)
    become("promote", [write_request("promote", config, store)])


@explain_errors
def rollback(
    because: Because = "by hand",
    registered_model: Registered = _RUNTIME.registered_model,
    store: Store = _RUNTIME.store,
) -> None:
    """Restore the previous champion.

    The corpora of the withdrawn model are not learned again automatically; to repeat them, list them in the setting
    `again` of the rounds.

    ```
    mixcpt rollback --because "wrong answers about bones"
    ```
    """
    runtime = RuntimeConfig(store=store, registered_model=registered_model)
    config = RollbackConfig(because=because, runtime=runtime)
    become("rollback", [write_request("rollback", config, store)])
