"""Runs a flow in this process: `python -m flows NAME REQUEST.json ...`, as the command line does.

The exit code is 0, 2 after a `MixcptError`, 130 after Ctrl-C and 143 after SIGTERM.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flows.local import print_champion, run_locally, with_prefect
from mixcpt.config import (
    AdaptConfig,
    AdviseConfig,
    CompareConfig,
    PromoteConfig,
    ReadaptConfig,
    ReconcileConfig,
    RollbackConfig,
    RuntimeConfig,
    Settings,
)
from mixcpt.store.artifacts import ArtifactStore

AnyConfig = TypeVar("AnyConfig", bound=Settings)


def run_adapt(path: str) -> int:
    """Run one adaptation, with the traditional chain if its settings say so."""
    from flows.adapt import adapt

    config = read_config(AdaptConfig, path)
    if config.runtime.with_traditional:
        return run_with_traditional(path)
    return run_locally(lambda: [adapt(config)], config.runtime)


def run_with_traditional(path: str) -> int:
    """Run the traditional chain and one adaptation, and print a last line for programs."""
    from flows.adapt import with_traditional

    config = read_config(AdaptConfig, path)
    return run_locally(lambda: with_traditional(config), config.runtime, _started())


def run_demo(*paths: str) -> int:
    """Run several adaptations and print a last line for programs."""
    from flows.demo import demo

    configs = [read_config(AdaptConfig, path) for path in paths]
    return run_locally(lambda: demo(configs), configs[0].runtime, _started())


def run_compare(path: str) -> int:
    """Run one comparison."""
    from flows.compare import compare
    from mixcpt.report.comparison.page import show_comparison

    config = read_config(CompareConfig, path)
    return with_prefect(config.runtime, lambda: show_comparison(compare(config), Path(config.runtime.store)))


def run_advise(path: str) -> int:
    """Run one search for a mixture."""
    from flows.advise import advise
    from mixcpt.report.comparison.advice import show_advice

    config = read_config(AdviseConfig, path)
    return with_prefect(config.runtime, lambda: show_advice(advise(config), Path(config.runtime.store)))


def run_readapt(path: str) -> int:
    """Run one round of re-adaptation."""
    from flows.readapt import readapt
    from mixcpt.report.rounds import show_rounds

    config = read_config(ReadaptConfig, path)
    runtime = config.adapt.runtime
    return with_prefect(runtime, lambda: show_rounds(readapt(config), config.name, ArtifactStore(runtime.store)))


def run_promote(path: str) -> int:
    """Promote a model."""
    from flows.promotion import promote

    config = read_config(PromoteConfig, path)
    return with_prefect(config.runtime, lambda: print_champion(promote(config), config.runtime))


def run_rollback(path: str) -> int:
    """Restore the previous champion."""
    from flows.promotion import rollback

    config = read_config(RollbackConfig, path)
    return with_prefect(config.runtime, lambda: print_champion(rollback(config), config.runtime))


def run_reconcile(path: str) -> int:
    """Clean up after processes that died."""
    from flows.reconcile import reconcile, show

    config = read_config(ReconcileConfig, path)
    runtime = RuntimeConfig(store=config.store, experiment=config.experiment)
    return with_prefect(runtime, lambda: show(config, reconcile(config)))


COMMANDS: dict[str, Callable[..., int]] = {
    "adapt": run_adapt,
    "with_traditional": run_with_traditional,
    "demo": run_demo,
    "compare": run_compare,
    "advise": run_advise,
    "readapt": run_readapt,
    "promote": run_promote,
    "rollback": run_rollback,
    "reconcile": run_reconcile,
}


def _started() -> float:
    return float(os.environ.get("MIXCPT_STARTED_AT", time.time()))


def read_config(kind: type[AnyConfig], path: str) -> AnyConfig:
    """Return the settings in a request file."""
    return kind.model_validate_json(Path(path).read_text())


if __name__ == "__main__":
    name, *paths = sys.argv[1:]
    raise SystemExit(COMMANDS[name](*paths))
