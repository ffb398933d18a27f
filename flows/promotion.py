"""Which model serves: a promotion and the way back, each a transaction."""

from prefect import flow
from prefect.transactions import transaction

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
