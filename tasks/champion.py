"""The champion: which version of the registered model serves, how another takes its place, and the way back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse
from uuid import uuid4

from prefect import task
from prefect.transactions import Transaction, get_transaction

from mixcpt.config import RuntimeConfig
from mixcpt.errors import ConfigError, TrackingAway, first_known
from mixcpt.evaluate.summary import EvaluationSummary
from mixcpt.records.run import RunResult, find_run
from mixcpt.stages.jobs import Input, Job, JobOptions
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from tasks.adaptation import Adaptation
from tasks.stage_groups import run_stage_group, worth_retrying
from tasks.stage_runs import DIGEST, WEIGHTS
from tasks.tracking import Place, Tracking, open_tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "champion"
_FROM = "mixcpt.promoted_from"
_BECAUSE = "mixcpt.promoted_because"
_AT = "mixcpt.promoted_at"
_TAKEN_BACK = "mixcpt.taken_back_because"
_NOBODY = "none"
"""What served before the first champion."""


@dataclass(frozen=True)
class Version:
    """A version of the registered model."""

    number: str
    model: ModelRef
    before: str
    """Number of the version that served before it; empty where none did, or this one never served."""


@dataclass(frozen=True)
class Registry:
    """The versions of one registered model; MLflow's answer decides what happens next, so that its outage is an error.

    Every method raises `TrackingAway` where MLflow does not answer.
    """

    runtime: RuntimeConfig

    @property
    def name(self) -> str:
        return self.runtime.registered_model

    @property
    def tracking(self) -> Tracking:
        return open_tracking(Place.of(self.runtime))

    def champion(self) -> Version | None:
        """Returns the version that serves; None before the first promotion."""
        with self._asked() as client:
            models = client.search_registered_models(f"name = '{self.name}'")
            number = models[0].aliases.get(ALIAS) if models else None
            return _version(client.get_model_version(self.name, str(number))) if number else None

    def version(self, wanted: str) -> Version:
        """Returns a version by its number or by an alias; raises `ConfigError` where there is none."""
        with self._asked() as client:
            models = client.search_registered_models(f"name = '{self.name}'")
            number = models[0].aliases.get(wanted, wanted) if models else wanted
            found = [each for each in self._versions(client) if str(each.version) == str(number)]
            known = ", ".join(sorted((str(each.version) for each in self._versions(client)), key=int)) or "none yet"
        if not found:
            raise ConfigError(f"{self.name} has no version or alias {wanted}; its versions: {known}")
        return _version(found[0])

    def version_of(self, digest: str) -> Version:
        """Returns the newest version with these weights; raises `ConfigError` where they are not registered."""
        with self._asked() as client:
            found = [each for each in self._versions(client) if each.tags.get(DIGEST) == digest]
        if not found:
            raise ConfigError(f"the model {digest[:12]} is not registered as {self.name}", "run it again: that does it")
        return _version(max(found, key=lambda each: int(each.version)))

    def taken_back(self) -> set[str]:
        """Returns the digests of the models that served and were taken back."""
        with self._asked() as client:
            return {each.tags[DIGEST] for each in self._versions(client) if each.tags.get(_TAKEN_BACK)}

    def move(self, number: str) -> None:
        """Makes a version the champion; none, where the number is empty."""
        with self._asked() as client:
            if number:
                client.set_registered_model_alias(self.name, ALIAS, number)
            else:
                client.delete_registered_model_alias(self.name, ALIAS)

    def tell(self, number: str, tags: Mapping[str, str]) -> None:
        """Writes on a version what happened to it."""
        with self._asked() as client:
            for key, value in tags.items():
                client.set_model_version_tag(self.name, number, key, value)

    def _versions(self, client: "MlflowClient") -> "list[ModelVersion]":
        return list(client.search_model_versions(f"name = '{self.name}'"))

    @contextmanager
    def _asked(self) -> "Iterator[MlflowClient]":
        from mlflow.exceptions import MlflowException

        try:
            yield self.tracking.client
        except (MlflowException, OSError) as error:
            raise TrackingAway(
                f"MLflow at {self.tracking.place.uri} does not say or do what the registry needs: {error}",
                "the champion stays what it was; try again when MLflow answers",
            ) from error


@task(name="move champion")
def move_champion(registry: Registry, number: str) -> str:
    """Returns the number of the version that served before; it serves again if the transaction fails."""
    before = registry.champion()
    previous = before.number if before else ""
    transaction = get_transaction()
    if transaction is None:
        raise RuntimeError("the champion moves in a transaction alone")
    transaction.set("registry", registry)
    transaction.set("previous", previous)
    registry.move(number)
    return previous


@move_champion.on_rollback
def _put_back(transaction: Transaction) -> None:
    registry: Registry = transaction.get("registry")
    registry.move(transaction.get("previous"))


@task(name="smoke test", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def ask_again(adaptation: Adaptation, run: RunResult, served: ModelRef) -> ArtifactRef:
    """Returns the record of a few questions that the model, loaded from where it serves, answers as it did before."""
    recorded = run.evaluations["final"]
    form = EvaluationSummary.of(recorded).form
    settings = run.config.evaluate.model_dump(mode="json")
    inputs: dict[str, Input] = {"model": served, "recorded": recorded, "corpus": run.refs["corpus"]}
    options = JobOptions(form=form, attempt=uuid4().hex)
    job = Job(name="smoke", stage="smoke", config=settings, seed=run.config.data_seed, inputs=inputs, options=options)
    return run_stage_group(adaptation, [job])["smoke"]


def find_version(registry: Registry, wanted: str) -> Version:
    """Returns the version that a number, an alias or the name of a run stands for.

    Raises:
        ConfigError: If none of them is known.
    """

    def of_run() -> Version:
        run = find_run(ArtifactStore(registry.runtime.store), wanted)
        return registry.version_of(run.refs[run.final].digest)

    return first_known(lambda: registry.version(wanted), of_run)


def record_promotion(registry: Registry, number: str, previous: str, because: str) -> None:
    """Writes on the new champion whose place it took, when, and why."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if previous != number:
        registry.tell(number, {_FROM: previous or _NOBODY, _BECAUSE: because, _AT: now, _TAKEN_BACK: ""})


def record_rollback(registry: Registry, number: str, because: str) -> None:
    """Writes on a version that it was champion and is so no longer, and why."""
    registry.tell(number, {_TAKEN_BACK: because})


def _version(found: "ModelVersion") -> Version:
    folder = unquote(urlparse(found.tags[WEIGHTS]).path)
    before = found.tags.get(_FROM, "")
    model = ModelRef(f"{found.name}-{found.version}", str(Path(folder)), found.tags[DIGEST])
    return Version(str(found.version), model, "" if before == _NOBODY else before)
