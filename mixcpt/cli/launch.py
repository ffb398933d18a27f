"""`mixcpt run`, `demo`, `reconcile` and `up`: become the flow process, or start the servers."""

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import mixcpt
from mixcpt.cli.console import Overrides, Store, explain_errors
from mixcpt.config import AdaptConfig, ReconcileConfig, Settings, load_advise, load_compare, load_config
from mixcpt.errors import ConfigError
from mixcpt.planning.preflight import preflight
from mixcpt.process.supervisor import module_path
from mixcpt.store.fingerprint import fingerprint

_DEMO = ("demo-traditional.yaml", "demo-mixcpt.yaml")


@explain_errors
def run(
    path: Annotated[Path, typer.Argument(help="The YAML file that says what to do.")],
    overrides: Overrides = None,
) -> None:
    """Adapt a model: curate, mix, pre-train, align, evaluate, register, report.

    A run that was stopped, killed or crashed goes on where it stood when the same command is given
    again; a finished stage is never computed twice.
    """
    config = load_config(path, overrides or ())
    preflight(config)
    _become_flow("flows.adapt", [config])


@explain_errors
def demo(
    store: Store = ".mixcpt",
    overrides: Overrides = None,
) -> None:
    """Adapt the model that ships with mixcpt to an invented world, beside the traditional chain.

    Runs on a CPU in minutes: base model, traditional chain (CPT, SFT, DPO) and Mix-CPT are asked the
    same questions about the new domain and about what the base knew before. The last line is
    RESULT and one JSON object.
    """
    presets = project_root() / "deployments" / "configs"
    changes = [*(overrides or ()), f"runtime.store={json.dumps(store)}"]
    _become_flow("flows.demo", [load_config(presets / name, changes) for name in _DEMO], "--result")


@explain_errors
def compare(
    path: Annotated[Path, typer.Argument(help="The YAML file that names contenders, seeds and what is searched.")],
    jobs: Annotated[int, typer.Option(help="Trainings at the same time; 0 takes what the file says.")] = 0,
    store: Annotated[str, typer.Option(help="Folder of artifacts and of MLflow; empty takes what the file says.")] = "",
) -> None:
    """Compare methods at equal effort: each tuned alike, every seed, one page with a recommendation.

    The best value of a setting is chosen on questions that are not reported. What the store has is not trained
    again, so a comparison that was stopped goes on, and one with another contender only trains that one.
    """
    config = load_compare(path)
    if jobs:
        config = config.model_copy(update={"jobs": jobs})
    if store:
        config = config.placed(store)
    preflight(config.first)
    become("flows.compare", [write_request(config.name, config, config.runtime.store)])


@explain_errors
def advise(
    path: Annotated[Path, typer.Argument(help="The YAML file with the settings to start from and what is searched.")],
    jobs: Annotated[int, typer.Option(help="Trainings at the same time; 0 takes what the file says.")] = 0,
    store: Annotated[str, typer.Option(help="Folder of artifacts and of MLflow; empty takes what the file says.")] = "",
) -> None:
    """Find share of the domain, alpha and learning rate for a corpus: a small designed search, then a confirmation.

    The search asks questions that are not reported; the best settings are then trained with several seeds beside those
    of the file, and both are asked the others. A search that was stopped goes on.
    """
    config = load_advise(path)
    if jobs:
        config = config.model_copy(update={"jobs": jobs})
    if store:
        config = config.placed(store)
    preflight(config.given)
    become("flows.advise", [write_request(config.name, config, config.runtime.store)])


@explain_errors
def up(
    store: Store = ".mixcpt",
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
    slots: Annotated[
        int, typer.Option(min=0, help="Runs at a time on this machine; 0 takes one a GPU, and one where there is none.")
    ] = 0,
    global_slots: Annotated[
        int, typer.Option(min=0, help="GPUs that the runs of all machines may take; 0 leaves the bound as it is.")
    ] = 0,
) -> None:
    """Start a Prefect server, an MLflow server and a worker on this machine; Ctrl-C stops them all.

    The deployment `adapt` is registered with them: open the Prefect address, choose Deployments,
    adapt, Custom run, and edit the form.
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
        float, typer.Option(min=0, help="Drafts and logs of batches that nobody works on are kept for so long.")
    ] = 168.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be done, and do nothing.")] = False,
) -> None:
    """Close what died: runs in Prefect and MLflow whose process has ended, and what it left in the store.

    Measurements that MLflow missed while it was away are logged now. What runs is never touched, so this can be
    started at any time; a second call finds nothing to do.
    """
    config = ReconcileConfig(store=store, experiment=experiment, older_than_hours=older_than_hours, dry_run=dry_run)
    become("flows.reconcile", [write_request("reconcile", config, store)])


def _become_flow(module: str, configs: list[AdaptConfig], *flags: str) -> NoReturn:
    """Replaces this process by the flow's, for which the settings are written down."""
    become(module, [write_request(config.name, config, config.runtime.store) for config in configs], *flags)


def become(module: str, requests: list[Path], *flags: str) -> NoReturn:
    """Replaces this process by the flow's, so that a signal to the command is a signal to the flow."""
    arguments = [str(request) for request in requests]
    environment = {
        **os.environ,
        "PYTHONPATH": module_path(project_root()),
        "MIXCPT_STARTED_AT": repr(time.time()),
    }
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments, *flags], environment)


def write_request(name: str, config: Settings, store: str) -> Path:
    """Writes the complete settings of a flow into its store, for the flow process to read."""
    folder = Path(store).expanduser() / "requests"
    path = folder / f"{name}-{fingerprint(config)[:16]}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(config.model_dump_json(indent=2))
    except OSError as error:
        raise ConfigError(
            f"runtime.store: cannot write below {folder}: {error.strerror}", "choose another folder"
        ) from None
    return path


def project_root() -> Path:
    """Returns the folder that holds flows/: the checkout of an editable install, or the current folder."""
    for root in (Path(mixcpt.__file__).parents[1], Path.cwd()):
        if (root / "flows" / "adapt.py").is_file():
            return root
    if spec := importlib.util.find_spec("flows"):
        return Path(next(iter(spec.submodule_search_locations or ["."]))).parent
    raise ConfigError(
        "the flows are not here: the mixcpt wheel holds the library alone",
        "run this command in a checkout of mixcpt, or in its image",
    )
