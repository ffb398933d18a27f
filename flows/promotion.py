"""Which model serves: a promotion and the way back, each a transaction.

`python -m flows.promotion CONFIG.json promote|rollback` runs one in this process.
"""

import sys
from pathlib import Path

from prefect import flow
from prefect.transactions import transaction

from flows.local import with_prefect
from mixcpt.config import PromoteConfig, RollbackConfig, RuntimeConfig
from mixcpt.errors import ConfigError
from mixcpt.records.run import find_maker
from mixcpt.store.artifacts import ArtifactStore
from tasks.adaptation import reopen_adaptation
from tasks.champion import (
    Registry,
    Version,
    ask_again,
    find_version,
    move_champion,
    record_promotion,
    record_rollback,
)
from tasks.hooks import remember_process


@flow(name="promote", flow_run_name="{config.model}", on_running=[remember_process])
def promote(config: PromoteConfig = PromoteConfig()) -> str:  # noqa: B008 the form shows the default
    """Make a registered model the champion.

    The alias moves, then the model is loaded from where it serves and asked a few questions again; where it does not
    answer as it did, the one before serves again. Returns the number of the version.
    """
    registry = Registry(config.runtime)
    version = find_version(registry, config.model)
    previous = put_in_place(version, config.runtime)
    record_promotion(registry, version.number, previous, config.because)
    return version.number


@flow(name="rollback", flow_run_name="rollback", on_running=[remember_process])
def rollback(config: RollbackConfig = RollbackConfig()) -> str:  # noqa: B008 the form shows the default
    """Put the champion before the present one back in its place.

    Returns the number of its version. The corpora of the model that is taken back are not learned again by themselves.
    """
    registry = Registry(config.runtime)
    champion = registry.champion()
    if champion is None or not champion.before:
        raise ConfigError(
            f"{registry.name} has no champion that took another's place", "`mixcpt promote VERSION` makes one champion"
        )
    before = registry.version(champion.before)
    put_in_place(before, config.runtime)
    record_rollback(registry, champion.number, config.because)
    return before.number


def put_in_place(version: Version, runtime: RuntimeConfig) -> str:
    """Returns the number of the version that served before, after another has taken its place and stood a test.

    The whole is a transaction: where the test fails, the one before serves again.
    """
    run = find_maker(ArtifactStore(runtime.store), version.model.digest)
    adaptation = reopen_adaptation(run, runtime)
    with transaction():
        previous = move_champion(Registry(runtime), version.number)
        ask_again(adaptation, run, version.model)
    return previous


def main(arguments: list[str]) -> int:
    """Returns the exit code of a promotion or of the way back."""
    path, what = arguments
    text = Path(path).read_text()
    if what == "promote":
        wanted = PromoteConfig.model_validate_json(text)
        return with_prefect(wanted.runtime, lambda: _tell(promote(wanted), wanted.runtime))
    unwanted = RollbackConfig.model_validate_json(text)
    return with_prefect(unwanted.runtime, lambda: _tell(rollback(unwanted), unwanted.runtime))


def _tell(number: str, runtime: RuntimeConfig) -> None:
    print(f"champion of {runtime.registered_model}: version {number}")


if __name__ == "__main__":
    from flows import promotion as module  # so that Prefect and pickles know the flows by their importable names

    raise SystemExit(module.main(sys.argv[1:]))
