"""Promotes a version of the registered model to champion, or restores the previous champion, in a transaction."""

from prefect import flow
from prefect.transactions import transaction

from mixcpt.config import PromoteConfig, RollbackConfig, RuntimeConfig
from mixcpt.errors import ConfigError
from mixcpt.records.run import find_maker
from mixcpt.store.artifacts import ArtifactStore
from tasks.adaptation import reopen_adaptation
from tasks.hooks import label_process
from tasks.registry import (
    Registry,
    Version,
    find_version,
    move_champion,
    record_promotion,
    record_rollback,
    run_smoke_test,
)


@flow(name="promote", flow_run_name="{config.model}", on_running=[label_process])
def promote(config: PromoteConfig = PromoteConfig()) -> str:  # noqa: B008 the form shows the default
    """Make a registered model the champion and return the number of its version.

    The model is then loaded from the folder it is served from, and must repeat a few of its recorded answers. If it
    does not, the previous champion is restored.
    """
    registry = Registry(config.runtime)
    version = find_version(registry, config.model)
    previous = serve_version(version, config.runtime)
    record_promotion(registry, version.number, previous, because=config.because)
    return version.number


@flow(name="rollback", flow_run_name="rollback", on_running=[label_process])
def rollback(config: RollbackConfig = RollbackConfig()) -> str:  # noqa: B008 the form shows the default
    """Restore the previous champion and return the number of its version.

    The corpora of the withdrawn model are not learned again automatically.
    """
    registry = Registry(config.runtime)
    champion = registry.champion()
    if champion is None or not champion.previous:
        raise ConfigError(f"{registry.name} has no previous champion", "`mixcpt promote VERSION` makes one champion")
    previous = registry.version(champion.previous)
    serve_version(previous, config.runtime)
    record_rollback(registry, champion.number, config.because)
    return previous.number


def serve_version(version: Version, runtime: RuntimeConfig) -> str:
    """Make a version the champion, run its smoke test, and return the number of the previous champion.

    If the smoke test fails, the transaction restores the previous champion.
    """
    run = find_maker(ArtifactStore(runtime.store), version.model.digest)
    adaptation = reopen_adaptation(run, runtime)
    with transaction():
        previous = move_champion(Registry(runtime), version.number)
        run_smoke_test(adaptation, run, version.model)
    return previous
