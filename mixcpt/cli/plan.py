"""`mixcpt plan`: what a run will take, before it is started."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from mixcpt.cli.console import Overrides, err, explain_errors, out
from mixcpt.config import load_config
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import resolve_model


@explain_errors
def plan(
    path: Annotated[Path, typer.Argument(help="The YAML file that says what to do.")],
    device: Annotated[
        str,
        typer.Option(
            help="Reckon for cpu (this machine's), t4, rtx4090, l40s, a100-40, a100-80, h100 or h200; "
            "empty: what this machine trains on."
        ),
    ] = "",
    trial: Annotated[
        bool | None,
        typer.Option(
            "--trial/--no-trial",
            help="Run every stage in small on this machine and measure it, or reckon by formulas. "
            "Default: a trial where no device is named.",
        ),
    ] = None,
    price_per_hour: Annotated[float, typer.Option(min=0, help="What one device costs an hour.")] = 0.0,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Say what a run will take before it is started: tokens, steps, operations, memory, disk, time, cost.

    How the figures come about:

    * tokens and steps: counted. Exact where the store has the corpus or the mixture, else from a sample of each source,
    by the model's tokenizer (~ before a figure).

    * time and memory: with a trial, every stage runs a few steps here (real rows, teacher and optimiser), and what it
    takes is extrapolated. It takes a minute or so and leaves nothing behind. Without one, by formulas and an
    assumed share of the device's peak speed, which is printed: good for "does it fit" and "hours or days".

    What will not fit is said, with the settings that would change it. For a device that is not here:

      mixcpt plan my.yaml --device h100 --price-per-hour 3 --set runtime.num_processes=8

    The plan is kept in the store. When the run has ended, its report and its MLflow run show planned beside measured.
    """
    config = load_config(path, overrides or ())
    if trial and device:
        raise ConfigError("--trial runs on this machine, --device names another", "give one of the two")
    base = resolve_model(config.base)

    from mixcpt.planning import stage
    from mixcpt.planning.devices import named_device, this_machine
    from mixcpt.planning.load import load_of
    from mixcpt.planning.table import show

    precision = config.pretrain.precision
    with err.status("counting what will be read") as status:
        store = ArtifactStore(config.runtime.store)
        load = load_of(config, base, store)
        if device and device != "cpu":
            chosen = named_device(device, config.runtime, precision)
        else:
            chosen = this_machine(config.runtime, precision, kind="cpu" if device else "any")
        if trial or (trial is None and not device):
            with _stoppable():
                planned = stage.tried_plan(
                    load, chosen, price_per_hour=price_per_hour, on_stage=lambda name: status.update(f"trial: {name}")
                )
        else:
            planned = stage.analytic_plan(load, chosen, price_per_hour=price_per_hour)
    kept = stage.keep_plan(store, load, planned)
    if as_json:
        typer.echo(json.dumps(planned.to_json(), indent=2))
    else:
        show(planned, out)
        err.print(f"kept in {kept.directory}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turns SIGTERM into an exit by way of every `finally`: a trial that is stopped removes its files and processes."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
