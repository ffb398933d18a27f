"""Tools that show a training in addition to MLflow, by the environment variables of a worker.

The libraries' own callbacks read their settings from such variables too.
"""

import os
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path

REPORTERS = "MIXCPT_REPORTERS"
"""Environment variable with the names of the tools that get the measurements of the present stage."""
_USER_DECIDES = {"WANDB_MODE": "offline", "WANDB_PROJECT": "mixcpt", "WANDB_CONSOLE": "off"}
"""Variables that keep the value that the user has set."""
_PRIVATE = {
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_X_DISABLE_META": "true",
    "WANDB_X_DISABLE_MACHINE_INFO": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
}
"""Variables that keep code, addresses, command lines and machine names out of a run."""


def wanted_reporters() -> list[str]:
    """Return the names of the tools that get the measurements of the present stage."""
    return os.environ.get(REPORTERS, "").split()


@contextmanager
def reporting(names: Sequence[str], store: Path, *, run: str, stage: str, fingerprint: str) -> Iterator[None]:
    """Send the measurements of a stage to the tools `names`, into folders of the store.

    Attempts of the same stage continue the same run of a tool.
    """
    with _set(_variables(names, store, run=run, stage=stage, identity=fingerprint[:16])):
        yield


def _variables(names: Sequence[str], store: Path, *, run: str, stage: str, identity: str) -> dict[str, str]:
    variables = {REPORTERS: " ".join(names)}
    if "tensorboard" in names:
        folder = store / "tensorboard" / run / f"{stage}-{identity}"
        variables["TENSORBOARD_LOGGING_DIR"] = str(folder)
    if "wandb" in names:
        store.mkdir(parents=True, exist_ok=True)
        own = {"WANDB_DIR": str(store), "WANDB_NAME": f"{run} {stage}", "WANDB_RUN_GROUP": run}
        attempt = {"WANDB_RUN_ID": identity, "WANDB_RESUME": "allow"}
        variables |= {**_chosen(os.environ), **_PRIVATE, **own, **attempt}
    return variables


def _chosen(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment.get(name, value) for name, value in _USER_DECIDES.items()}


@contextmanager
def _set(variables: Mapping[str, str], environment: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    before = {name: environment[name] for name in variables if name in environment}
    environment.update(variables)
    try:
        yield
    finally:
        for name in variables:
            environment.pop(name, None)
        environment.update(before)
