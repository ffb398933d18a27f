"""Commands that become the process of a flow (`mixcpt run`, `demo` ...) or set up servers (`up`, `deploy`)."""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

from typer import Argument, Option

from mixcpt.cli.console import (
    Overrides,
    Store,
    StoreOfFile,
    checked,
    err,
    explain_errors,
    print_line,
    print_note,
    with_store,
    working,
)
from mixcpt.config import (
    AdaptConfig,
    AdviseConfig,
    CompareConfig,
    ReadaptConfig,
    ReconcileConfig,
    Settings,
    load_config,
    load_settings,
)
from mixcpt.config.traditional import traditional_chain
from mixcpt.errors import ConfigError, MixcptError
from mixcpt.records.run import find_stored_run
from mixcpt.servers.deployment import POOL, PROJECT_ROOT, UPKEEP_POOL, Pools, module_path
from mixcpt.store.fingerprint import fingerprint

_DEMO = ("demo-traditional.yaml", "demo-mixcpt.yaml")

Study = TypeVar("Study", CompareConfig, AdviseConfig)
Jobs = Annotated[int, Option(help="Number of trainings at the same time; 0 uses the value of the file.")]


@explain_errors
def run(
    path: Annotated[Path, Argument(help="YAML file of the run.")],
    with_traditional: Annotated[
        bool,
        Option(
            "--with-traditional", help="Also run the traditional chain on the same data, and show both on one page."
        ),
    ] = False,
    overrides: Overrides = None,
    store: StoreOfFile = "",
) -> None:
    """Adapt a model: curate, mix, pre-train, align, evaluate, register, report.

    Run the same command again after a stop or a crash: finished stages are loaded from the store, and a training
    resumes from its last checkpoint.

    ```
    mixcpt run my.yaml --with-traditional
    mixcpt run my.yaml --set runtime.num_processes=2
    ```
    """
    added = ["runtime.with_traditional=true"] if with_traditional else []
    config = load_config(path, [*with_store(overrides, store), *added])
    with working(f"reading {path} ..."):
        is_stored = _print_stored(*_chains(config))
    if not is_stored:
        checked(config, path)
        become("adapt", config, store=config.runtime.store, are_checked=True)


def _chains(config: AdaptConfig) -> list[AdaptConfig]:
    """Return the runs of a configuration: itself, after the traditional chain if the settings say so."""
    if not config.runtime.with_traditional:
        return [config]
    chain = traditional_chain(config)
    return [chain, config.model_copy(update={"runtime": chain.runtime})]


@explain_errors
def demo(store: Store = ".mixcpt", overrides: Overrides = None) -> None:
    """Adapt the small model that ships with mixcpt to an invented world, and compare with the traditional chain.

    It takes minutes on a CPU. The base model, the traditional chain (CPT, SFT, DPO) and Mix-CPT answer the same
    questions about the new domain and about prior knowledge. The last line of the output is RESULT and a JSON object.

    ```
    mixcpt demo --store ./demo-store
    ```
    """
    presets = PROJECT_ROOT / "deployments" / "configs"
    changes = [*(overrides or ()), f"runtime.store={json.dumps(store)}"]
    configs = [load_config(presets / name, changes) for name in _DEMO]
    if not _print_stored(*configs, started=time.time()):
        become("demo", *configs, store=store)


@explain_errors
def compare(
    path: Annotated[Path, Argument(help="YAML file with the contenders, the seeds and the search ranges.")],
    jobs: Jobs = 0,
    store: StoreOfFile = "",
) -> None:
    """Compare methods with equal tuning and several seeds; write one page with a recommendation.

    Settings are chosen on selection questions; the page reports the scores on other questions. Run the command again
    after a stop, or with one more contender: finished trainings are loaded from the store.

    ```
    mixcpt compare comparison.yaml --jobs 2
    ```
    """
    config = _load_study(CompareConfig, path, jobs, store)
    checked(config.first, path, config)
    become("compare", config, store=config.runtime.store, are_checked=True)


@explain_errors
def advise(
    path: Annotated[Path, Argument(help="YAML file with the initial settings and the search ranges.")],
    jobs: Jobs = 0,
    store: StoreOfFile = "",
) -> None:
    """Search the domain share, alpha and learning rate for a corpus, then confirm the best settings.

    The search scores its trials on selection questions. The best and the initial settings are then trained with
    several seeds and compared on the other questions. Run the command again to resume after a stop.

    ```
    mixcpt advise search.yaml
    ```
    """
    config = _load_study(AdviseConfig, path, jobs, store)
    checked(config.given, path, config)
    become("advise", config, store=config.runtime.store, are_checked=True)


@explain_errors
def up(
    store: Store = ".mixcpt",
    prefect_port: Annotated[int, Option(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, Option(help="Port of the MLflow server.")] = 5000,
    slots: Annotated[int, Option(min=0, help="Runs at the same time; 0 means one per GPU, and at least one.")] = 0,
    global_slots: Annotated[
        int, Option(min=0, help="Maximum number of GPUs for the runs of all machines; 0 keeps the present limit.")
    ] = 0,
) -> None:
    """Start a Prefect server, an MLflow server and workers on this machine; Ctrl-C stops all of them.

    To start a run in the browser, open the Prefect address, choose Deployments, adapt, Custom run, and edit the form.

    ```
    mixcpt up --prefect-port 4201 --slots 2
    ```
    """
    from mixcpt.servers.stack import run_stack

    run_stack(Path(store), prefect_port=prefect_port, mlflow_port=mlflow_port, slots=slots, global_slots=global_slots)


@explain_errors
def reconcile(
    store: Store = ".mixcpt",
    experiment: Annotated[str, Option(help="MLflow experiment.")] = "mixcpt",
    older_than_hours: Annotated[
        float, Option(min=0, help="Age in hours at which abandoned drafts and logs of batches are deleted.")
    ] = 168.0,
    dry_run: Annotated[bool, Option("--dry-run", help="List the changes without making them.")] = False,
) -> None:
    """Close the runs of dead processes in Prefect and MLflow, and delete their drafts from the store.

    Metrics that MLflow missed during an outage are logged now. Live runs are not touched, so the command is safe at
    any time.

    ```
    mixcpt reconcile --dry-run
    ```
    """
    config = ReconcileConfig(store=store, experiment=experiment, older_than_hours=older_than_hours, dry_run=dry_run)
    become("reconcile", config, store=store)


@explain_errors
def deploy(
    readapt: Annotated[Path | None, Option(help="YAML file of the rounds for the schedule and new corpora.")] = None,
    cron: Annotated[str, Option(help="Schedule of readapt in UTC, e.g. `0 3 * * *` for 3 a.m. Default: none.")] = "",
    pool: Annotated[str, Option(help="Work pool of runs; created with the type process if it does not exist.")] = POOL,
    upkeep_pool: Annotated[
        str, Option(help="Work pool of reconcile, promote and rollback, which must not wait for a training.")
    ] = UPKEEP_POOL,
    gpu_pool: Annotated[str, Option(help="Work pool of the stages that need a GPU. Default: the run's pool.")] = "",
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
        problem = f"found no Prefect server: PREFECT_API_URL is empty, and no `mixcpt up` runs on {folder}"
        raise ConfigError(problem, "start one with `mixcpt up`, or set PREFECT_API_URL")
    pools = Pools(runs=pool, upkeep=upkeep_pool, gpu=gpu_pool)
    rounds = load_settings(ReadaptConfig, readapt) if readapt else ReadaptConfig()
    with err.status("registering the deployments"):
        deployed = register(api, folder, environment=environment, pools=pools, rounds=rounds, cron=cron)
    for name, pool_name in deployed.pool_of.items():
        print_line(f"{name:<32} {pool_name}")
    for name in deployed.idle:
        print_note(f"no worker polls {name} yet: prefect worker start --pool {name}")


def _print_stored(*configs: AdaptConfig, started: float | None = None) -> bool:
    """Print the results of runs whose stages are all in the store, without starting a server; else return False."""
    with suppress(MixcptError):  # `preflight` lists all problems
        results = [find_stored_run(config) for config in configs]
        if all(results):
            from mixcpt.report.page import print_results

            print("every stage is already in the store; nothing was computed", file=sys.stderr)
            print_results([result for result in results if result], started)
            return True
    return False


def _load_study(settings: type[Study], path: Path, jobs: int, store: str) -> Study:
    """Load a comparison or a search, changed by the options of its command."""
    config = load_settings(settings, path)
    if jobs:
        config = config.model_copy(update={"jobs": jobs})
    return config.placed(store) if store else config


def become(flow: str, *configs: Settings, store: str, are_checked: bool = False) -> NoReturn:
    """Write the settings of a flow into the store, and replace this process by the flow's.

    A signal to the command is then a signal to the flow. The flow does not repeat checks that this command has made.
    """
    requests = [_write_request(getattr(config, "name", flow), config, store) for config in configs]
    command = [sys.executable, "-P", "-m", "flows", flow, *map(str, requests)]
    print_note("starting Prefect and MLflow ...")
    changes = {"PYTHONPATH": module_path(), "MIXCPT_STARTED_AT": repr(time.time())}
    changes["DO_NOT_TRACK"] = "1"  # and no notice of Prefect about it
    changes["MIXCPT_CHECKED"] = " ".join(map(fingerprint, configs)) if are_checked else ""
    sys.stdout.flush()
    os.execve(sys.executable, command, {**os.environ, **changes})


def _write_request(name: str, config: Settings, store: str) -> Path:
    folder = Path(store).expanduser() / "requests"
    path = folder / f"{name}-{fingerprint(config)[:16]}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(config.model_dump_json(indent=2))
    except OSError as error:
        problem = f"runtime.store {store}: cannot write to {folder}: {error.strerror}"
        raise ConfigError(problem, "choose another folder") from None
    return path
