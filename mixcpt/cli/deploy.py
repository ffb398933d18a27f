"""`mixcpt deploy`: register the flows of this checkout with a Prefect server."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mixcpt.cli.console import Store, err, explain_errors, out
from mixcpt.config import ReadaptConfig, load_settings
from mixcpt.errors import ConfigError
from mixcpt.servers.deployment import POOL, UPKEEP_POOL, Pools
from mixcpt.servers.project import project_root


@explain_errors
def deploy(
    readapt: Annotated[
        Path | None, typer.Option(help="YAML file of the rounds that the schedule and new corpora start.")
    ] = None,
    cron: Annotated[
        str, typer.Option(help="Schedule of readapt in UTC, e.g. `0 3 * * *` for 3 a.m. Default: no schedule.")
    ] = "",
    pool: Annotated[
        str, typer.Option(help="Work pool of runs; created with the type process if it does not exist.")
    ] = POOL,
    upkeep_pool: Annotated[
        str, typer.Option(help="Work pool of reconcile, promote and rollback, which must not wait for a training.")
    ] = UPKEEP_POOL,
    gpu_pool: Annotated[
        str, typer.Option(help="Work pool of the stages that need a GPU. Default: the pool of the run.")
    ] = "",
    store: Store = ".mixcpt",
) -> None:
    """Register every deployment with a Prefect server: adapt and its presets, readapt, compare, evaluate-model ...

    The server is the one of `PREFECT_API_URL`, or of `mixcpt up` on this store. Run this command in the checkout that
    the workers use, and again after every change: existing deployments are updated.

    ```
    mixcpt deploy --readapt rounds.yaml --cron "0 3 * * *"
    ```
    """
    from mixcpt.servers.deployment import deploy as register
    from mixcpt.servers.stack import prefect_environment, running_api

    folder = Path(store).expanduser().resolve()
    api, environment = os.environ.get("PREFECT_API_URL", ""), {}
    if not api:
        api, environment = running_api(folder), prefect_environment(folder)
    if not api:
        raise ConfigError(
            f"found no Prefect server: PREFECT_API_URL is empty, and no `mixcpt up` runs on {folder}",
            "start one with `mixcpt up`, or set PREFECT_API_URL",
        )
    rounds = load_settings(ReadaptConfig, readapt) if readapt else ReadaptConfig()
    with err.status("registering the deployments"):
        deployed = register(
            api,
            folder,
            root=project_root(),
            environment=environment,
            pools=Pools(runs=pool, upkeep=upkeep_pool, gpu=gpu_pool),
            rounds=rounds,
            cron=cron,
        )
    for name, pool_name in deployed.pool_of.items():
        out.print(f"{name:<32} {pool_name}", markup=False, highlight=False)
    for name in deployed.idle:
        err.print(f"no worker polls {name} yet: prefect worker start --pool {name}", markup=False, highlight=False)
