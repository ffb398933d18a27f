"""`mixcpt plan`: estimate the cost of a run before it starts."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from mixcpt.cli.console import Overrides, StoreOfFile, err, explain_errors, out, print_note, with_store
from mixcpt.config import AdaptConfig, load_config
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, resolve_model

if TYPE_CHECKING:
    from mixcpt.records.plan import Plan


@explain_errors
def plan(
    path: Annotated[Path, Argument(help="YAML file of the run.")],
    device: Annotated[
        str,
        Option(
            help="Device of the estimate: cpu (of this machine), t4, rtx4090, l40s, a100-40, a100-80, h100 or h200. "
            "Default: the device that a run uses here."
        ),
    ] = "",
    dry_run: Annotated[
        bool | None,
        Option(
            "--dry-run/--no-dry-run",
            help="Run a few steps of every stage on this machine and measure them, or use formulas only. "
            "Default: a dry run, unless --device is given.",
        ),
    ] = None,
    trial: Annotated[bool | None, Option("--trial/--no-trial", hidden=True)] = None,
    price_per_hour: Annotated[float, Option(min=0, help="Price of one device per hour.")] = 0.0,
    overrides: Overrides = None,
    as_json: Annotated[bool, Option("--json", help="Print a JSON object instead of tables.")] = False,
    store: StoreOfFile = "",
) -> None:
    """Estimate the tokens, steps, operations, memory, disk space, time and cost of a run before it starts.

    * Tokens and steps are counted: exactly if the store has the corpus or the mixture, else from samples of
      the sources (marked with ~).
    * Time and memory come from a dry run: every stage runs a few steps with real data, and the measurements are
      extrapolated. It takes about a minute and leaves no files.
    * With `--no-dry-run` or `--device`, time and memory come from formulas and an assumed share of the device's peak
      speed: enough to see whether the run fits, and whether it takes hours or days. The weights are not read, so a
      folder with only config.json and the tokenizer is enough.

    Settings that do not fit the device are listed with their remedies. The plan is stored, and the report of the run
    compares it with the measured values. To plan for another machine:

    ```
    mixcpt plan my.yaml --device h100 --price-per-hour 3 --set runtime.num_processes=8
    ```
    """
    if trial is not None:
        raise ConfigError("--trial and --no-trial have been renamed", "use --dry-run or --no-dry-run")
    config = load_config(path, with_store(overrides, store))
    if dry_run and device:
        problem = f"--dry-run measures this machine, but --device {device} names another one"
        raise ConfigError(problem, "leave out one of the two")
    with_dry_run = not device if dry_run is None else dry_run
    estimate, artifact = _estimate(config, device, price_per_hour=price_per_hour, with_dry_run=with_dry_run)
    _print_warnings(config, estimate)
    if as_json:
        typer.echo(json.dumps(estimate.to_json(), indent=2))
    else:
        from mixcpt.planning.table import show

        show(estimate, out)
        print_note(f"stored in {artifact.directory}")


def _check_text(config: AdaptConfig, base: ModelRef) -> None:
    """Print warnings about text that the tokenizer loses.

    Raises:
        ConfigError: If the tokenizer loses more text than the settings allow, as in `mixcpt validate`.
    """
    from mixcpt.checks.preflight import check_text

    for finding in check_text(config, base):
        print_note(f"warning: {finding}", style="yellow")


def _print_warnings(config: AdaptConfig, estimate: "Plan") -> None:
    """Print warnings about rates, precision and passes; `mixcpt validate` has the other checks."""
    from mixcpt.checks import rates
    from mixcpt.planning.estimates import device_kind

    on_gpu = device_kind(estimate.device) != "cpu"
    for finding in rates.warnings(config, estimate.num_parameters, on_gpu=on_gpu):
        print_note(f"warning: {finding}", style="yellow")


def _estimate(
    config: AdaptConfig, device_name: str, *, price_per_hour: float, with_dry_run: bool
) -> "tuple[Plan, ArtifactRef]":
    """Estimate a run, store the plan, and return both."""
    base = resolve_model(config.base, needs_weights=with_dry_run)
    _check_text(config, base)

    from mixcpt.planning import stage
    from mixcpt.planning.devices import named_device, this_machine
    from mixcpt.planning.load import count_load

    store = ArtifactStore(config.runtime.store)
    precision = config.pretrain.precision
    with err.status("counting tokens") as status, _sigterm_exits():
        load = count_load(config, base, store)
        if device_name and device_name != "cpu":
            device = named_device(device_name, config.runtime, precision)
        else:
            device = this_machine(config.runtime, precision, kind="cpu" if device_name else "any")
        if with_dry_run:
            estimate = stage.measured_plan(
                load, device, price_per_hour=price_per_hour, on_stage=lambda name: status.update(f"dry run: {name}")
            )
        else:
            estimate = stage.estimated_plan(load, device, price_per_hour=price_per_hour)
    return estimate, stage.keep_plan(store, load, estimate)


@contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Turn SIGTERM into `SystemExit`: the `finally` blocks then remove the files and processes of a stopped dry run."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
