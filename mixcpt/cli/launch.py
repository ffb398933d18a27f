"""Commands that become the process of a flow (`mixcpt run`, `demo`, `compare` ...) or start the servers (`up`)."""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mixcpt.cli.console import Overrides, Store, explain_errors
from mixcpt.config import (
    AdaptConfig,
    AdviseConfig,
    CompareConfig,
    ReconcileConfig,
    Settings,
    load_config,
    load_settings,
)
from mixcpt.errors import ConfigError, MixcptError
from mixcpt.planning.preflight import preflight
from mixcpt.process.supervisor import module_path
from mixcpt.records.stored import find_stored_run
from mixcpt.servers.project import project_root
from mixcpt.store.fingerprint import fingerprint

_DEMO = ("demo-traditional.yaml", "demo-mixcpt.yaml")


@explain_errors
def run(
    path: Annotated[Path, typer.Argument(help="YAML file of the run.")],
    overrides: Overrides = None,
) -> None:
    """Adapt a model: curate, mix, pre-train, align, evaluate, register, report.

    Run the same command again after a stop or a crash: finished stages are loaded from the store, and a training
    resumes from its last checkpoint.

    ```
    mixcpt run my.yaml --set runtime.num_processes=2
    ```
    """
    config = load_config(path, overrides or ())
    if not _print_stored(config):
        preflight(config)
        _become_flow("adapt", config)


@explain_errors
def demo(
    store: Store = ".mixcpt",
    overrides: Overrides = None,
) -> None:
    """Adapt the small model that ships with mixcpt to an invented world, and compare with the traditional chain.

    It takes minutes on a CPU. The base model, the traditional chain (CPT, SFT, DPO) and Mix-CPT answer the same
    questions about the new domain and about prior knowledge. The last line of the output is RESULT and a JSON object.

    ```
    mixcpt demo --store ./demo-store
    ```
    """
    presets = project_root() / "deployments" / "configs"
    changes = [*(overrides or ()), f"runtime.store={json.dumps(store)}"]
    configs = [load_config(presets / name, changes) for name in _DEMO]
    if not _print_stored(*configs, started=time.time()):
        _become_flow("demo", *configs)


@explain_errors
def compare(
    path: Annotated[Path, typer.Argument(help="YAML file with the contenders, the seeds and the search ranges.")],
    jobs: Annotated[int, typer.Option(help="Number of trainings at the same time; 0 uses the value of the file.")] = 0,
    store: Annotated[str, typer.Option(help="Folder of the artifact store. Default: the store of the file.")] = "",
) -> None:
    """Compare methods with equal tuning and several seeds; write one page with a recommendation.

    Settings are chosen on selection questions; the page reports the scores on other questions. Run the command again
    after a stop, or with one more contender: finished trainings are loaded from the store.

    ```
    mixcpt compare comparison.yaml --jobs 2
    ```
    """
    config = load_settings(CompareConfig, path)
    if jobs:
        config = config.model_copy(update={"jobs": jobs})
    if store:
        config = config.placed(store)
    preflight(config.first)
    become("compare", [write_request(config.name, config, config.runtime.store)])


@explain_errors
def advise(
    path: Annotated[Path, typer.Argument(help="YAML file with the initial settings and the search ranges.")],
    jobs: Annotated[int, typer.Option(help="Number of trainings at the same time; 0 uses the value of the file.")] = 0,
    store: Annotated[str, typer.Option(help="Folder of the artifact store. Default: the store of the file.")] = "",
) -> None:
    """Search the domain share, alpha and learning rate for a corpus, then confirm the best settings.

    The search scores its trials on selection questions. The best and the initial settings are then trained with
    several seeds and compared on the other questions. Run the command again to resume after a stop.

    ```
    mixcpt advise search.yaml
    ```
    """
    config = load_settings(AdviseConfig, path)
    if jobs:
        config = config.model_copy(update={"jobs": jobs})
    if store:
        config = config.placed(store)
    preflight(config.given)
    become("advise", [write_request(config.name, config, config.runtime.store)])


@explain_errors
def up(
    store: Store = ".mixcpt",
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
    slots: Annotated[
        int, typer.Option(min=0, help="Number of runs at the same time here; 0 means one per GPU, and at least one.")
    ] = 0,
    global_slots: Annotated[
        int, typer.Option(min=0, help="Maximum number of GPUs for the runs of all machines; 0 keeps the present limit.")
    ] = 0,
) -> None:
    """Start a Prefect server, an MLflow server and workers on this machine; Ctrl-C stops all of them.

    To start a run in the browser, open the Prefect address, choose Deployments, adapt, Custom run, and edit the form.

    ```
    mixcpt up --prefect-port 4201 --slots 2
    ```
    """
    from mixcpt.servers.stack import run_stack

    run_stack(
        Path(store),
        root=project_root(),
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        slots=slots,
        global_slots=global_slots,
    )


@explain_errors
def reconcile(
    store: Store = ".mixcpt",
    experiment: Annotated[str, typer.Option(help="MLflow experiment.")] = "mixcpt",
    older_than_hours: Annotated[
        float, typer.Option(min=0, help="Age in hours at which abandoned drafts and logs of batches are deleted.")
    ] = 168.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the changes without making them.")] = False,
) -> None:
    """Close the runs of dead processes in Prefect and MLflow, and delete their drafts from the store.

    Metrics that MLflow missed during an outage are logged now. Live runs are not touched, so the command is safe at
    any time.

    ```
    mixcpt reconcile --dry-run
    ```
    """
    config = ReconcileConfig(store=store, experiment=experiment, older_than_hours=older_than_hours, dry_run=dry_run)
    become("reconcile", [write_request("reconcile", config, store)])


def _print_stored(*configs: AdaptConfig, started: float | None = None) -> bool:
    """Print the results of runs whose stages are all in the store, without starting a server; else return False."""
    with suppress(MixcptError):  # `preflight` lists all problems
        results = [find_stored_run(config) for config in configs]
        if all(results):
            from mixcpt.report.terminal import print_results

            print("every stage is already in the store; nothing was computed", file=sys.stderr)
            print_results([result for result in results if result], started)
            return True
    return False


def _become_flow(flow: str, *configs: AdaptConfig) -> NoReturn:
    """Write the settings of a flow to files, and replace this process by the flow's."""
    become(flow, [write_request(config.name, config, config.runtime.store) for config in configs])


def become(flow: str, requests: list[Path]) -> NoReturn:
    """Replace this process by the flow's, so that a signal to the command is a signal to the flow."""
    command = [sys.executable, "-P", "-m", "flows", flow, *map(str, requests)]
    environment = {
        **os.environ,
        "PYTHONPATH": module_path(project_root()),
        "MIXCPT_STARTED_AT": repr(time.time()),
    }
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


def write_request(name: str, config: Settings, store: str) -> Path:
    """Write the complete settings of a flow into its store and return the path."""
    folder = Path(store).expanduser() / "requests"
    path = folder / f"{name}-{fingerprint(config)[:16]}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(config.model_dump_json(indent=2))
    except OSError as error:
        raise ConfigError(
            f"runtime.store {store}: cannot write to {folder}: {error.strerror}", "choose another folder"
        ) from None
    return path
