"""`mixcpt deploy`: what a Prefect server can run of this checkout, and with which settings."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mixcpt.cli.console import Store, err, explain_errors, out
from mixcpt.cli.launch import project_root
from mixcpt.config import ReadaptConfig, load_readapt
from mixcpt.errors import ConfigError
from mixcpt.servers.deployment import POOL, UPKEEP_POOL, Pools


@explain_errors
def deploy(
    readapt: Annotated[
        Path | None, typer.Option(help="YAML file of the rounds that the schedule and new corpora start.")
    ] = None,
    cron: Annotated[
        str, typer.Option(help='Switch the schedule of readapt on, e.g. "0 3 * * *" for 3 o\'clock UTC.')
    ] = "",
    pool: Annotated[str, typer.Option(help="Work pool; made, of type process, where there is none.")] = POOL,
    upkeep_pool: Annotated[
        str, typer.Option(help="Work pool of reconcile, promote and rollback, which must not wait behind trainings.")
    ] = UPKEEP_POOL,
    gpu_pool: Annotated[
        str, typer.Option(help="Work pool for the stages that take a GPU; the same for all where none is given.")
    ] = "",
    store: Store = ".mixcpt",
) -> None:
    """Register every deployment with the Prefect server: adapt and its presets, readapt, compare, evaluate-model ...

    The server is that of PREFECT_API_URL, or that of `mixcpt up` on this store. Run it in the checkout that the workers
    use, and again after every change: the same deployments are brought up to date, and none is made twice.
    """
    from mixcpt.servers.deployment import deploy as tell
    from mixcpt.servers.stack import prefect_environment, running_api

    folder = Path(store).expanduser().resolve()
    api, environment = os.environ.get("PREFECT_API_URL", ""), {}
    if not api:
        api, environment = running_api(folder), prefect_environment(folder)
    if not api:
        raise ConfigError("no Prefect server is known", "start one with `mixcpt up`, or set PREFECT_API_URL")
    rounds = load_readapt(readapt) if readapt else ReadaptConfig()
    with err.status("telling the server"):
        told = tell(
            api,
            folder,
            root=project_root(),
            environment=environment,
            pools=Pools(pool, upkeep_pool, gpu_pool),
            rounds=rounds,
            cron=cron,
        )
    for name, its_pool in told.pool_of.items():
        out.print(f"{name:<32} {its_pool}", markup=False, highlight=False)
    for name in told.idle:
        err.print(f"no worker polls {name} yet: prefect worker start --pool {name}", markup=False, highlight=False)
