"""The registered model in MLflow: its versions, each a challenger until its promotion, and its champion."""

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
from mixcpt.report.cards import shortened
from mixcpt.stages.jobs import Input, Job, JobOptions
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from tasks.adaptation import Adaptation
from tasks.stage_groups import run_stage_group, worth_retrying
from tasks.stage_runs import DIGEST, WEIGHTS, find_model
from tasks.tracking import Place, Tracking, forgiving, open_tracking
from tasks.watching import wait_until_recorded

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


_CHALLENGER = "challenger"
_CHAMPION = "champion"
_PREVIOUS = "mixcpt.promoted_from"
_PROMOTION_REASON = "mixcpt.promoted_because"
_PROMOTION_TIME = "mixcpt.promoted_at"
_WITHDRAWAL_REASON = "mixcpt.taken_back_because"
_NO_PREVIOUS = "none"
"""Value of the tag `mixcpt.promoted_from` of the first champion."""
_MAX_DESCRIPTION = 5000
"""Maximum characters of a description in MLflow's database; PostgreSQL refuses more."""


@task(name="register")
def register(adaptation: Adaptation, final: ArtifactRef) -> str:
    """Register the final model and return its version; empty if MLflow is unreachable."""
    wait_until_recorded(adaptation)  # the version points to the logged model
    name = adaptation.config.runtime.registered_model
    return register_version(adaptation.tracking, name, final, run_id=adaptation.run_id) or ""


@forgiving
def register_version(tracking: Tracking, name: str, final: ArtifactRef, run_id: str) -> str:
    """Give the version of these weights the alias `challenger`, create it if there is none, and return its number."""
    client = tracking.client
    if not client.search_registered_models(f"name = '{name}'"):
        description = "Models that mixcpt adapted; weights stay in the artifact store."
        client.create_registered_model(name, description=description)
    versions = client.search_model_versions(f"name = '{name}'")
    version = next((version for version in versions if version.tags.get(DIGEST) == final.digest), None)
    if version is None:
        model = find_model(tracking, final.digest)
        if model is None:
            return ""
        tags = {DIGEST: final.digest, WEIGHTS: final.file("model").as_uri()}
        source, run = model.model_uri, run_id or None
        version = client.create_model_version(name, source, run, tags=tags, model_id=model.model_id)
    number = str(version.version)
    client.set_registered_model_alias(name, _CHALLENGER, number)
    return number


def describe_version(tracking: Tracking, name: str, version: str, card: str) -> None:
    """Set the model card as the description of a version, unless it has one already."""
    if version and not tracking.client.get_model_version(name, version).description:
        tracking.client.update_model_version(name, version, description=shortened(card, _MAX_DESCRIPTION))


@dataclass(frozen=True)
class Version:
    """A version of the registered model."""

    number: str
    model: ModelRef
    previous: str
    """Number of the champion before it; empty if there was none or this version never was champion."""


@dataclass(frozen=True)
class Registry:
    """The versions of one registered model in MLflow.

    Every method raises `TrackingAway` if MLflow does not respond, because the next step depends on its response.
    """

    runtime: RuntimeConfig

    @property
    def name(self) -> str:
        return self.runtime.registered_model

    @property
    def tracking(self) -> Tracking:
        return open_tracking(Place.of(self.runtime))

    def champion(self) -> Version | None:
        """Return the champion; None before the first promotion."""
        with self._client() as client:
            number = self._aliases(client).get(_CHAMPION)
            return _version(client.get_model_version(self.name, str(number))) if number else None

    def version(self, name: str) -> Version:
        """Return a version by its number or by an alias.

        Raises:
            ConfigError: If there is none.
        """
        with self._client() as client:
            number = str(self._aliases(client).get(name, name))
            versions = {str(version.version): version for version in self._versions(client)}
        if number not in versions:
            known = ", ".join(sorted(versions, key=int)) or "none yet"
            raise ConfigError(f"{self.name} has no version or alias {name}; its versions: {known}")
        return _version(versions[number])

    def version_of_run(self, run: RunResult) -> Version:
        """Return the newest version with the weights of a run's final model.

        Raises:
            ConfigError: If they are not registered.
        """
        digest = run.refs[run.final].digest
        with self._client() as client:
            versions = [version for version in self._versions(client) if version.tags.get(DIGEST) == digest]
        if not versions:
            problem = f"the model {digest[:12]} is not registered as {self.name}"
            raise ConfigError(problem, "run the adaptation again to register it")
        return _version(max(versions, key=lambda version: int(version.version)))

    def withdrawn_digests(self) -> set[str]:
        """Return the digests of the models that were champion and were rolled back."""
        with self._client() as client:
            versions = self._versions(client)
        return {version.tags[DIGEST] for version in versions if version.tags.get(_WITHDRAWAL_REASON)}

    def set_champion(self, number: str) -> None:
        """Make a version the champion; an empty number leaves the model without champion."""
        with self._client() as client:
            if number:
                client.set_registered_model_alias(self.name, _CHAMPION, number)
            else:
                client.delete_registered_model_alias(self.name, _CHAMPION)

    def tag(self, number: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with self._client() as client:
            for key, value in tags.items():
                client.set_model_version_tag(self.name, number, key, value)

    def _aliases(self, client: "MlflowClient") -> Mapping[str, str]:
        models = client.search_registered_models(f"name = '{self.name}'")
        return models[0].aliases if models else {}

    def _versions(self, client: "MlflowClient") -> "list[ModelVersion]":
        return list(client.search_model_versions(f"name = '{self.name}'"))

    @contextmanager
    def _client(self) -> "Iterator[MlflowClient]":
        from mlflow.exceptions import MlflowException

        try:
            yield self.tracking.client
        except (MlflowException, OSError) as error:
            raise TrackingAway(
                f"the model registry of MLflow at {self.tracking.place.uri} failed: {error}",
                "the champion is unchanged; try again when MLflow responds",
            ) from error


@task(name="move champion")
def move_champion(registry: Registry, number: str) -> str:
    """Make a version the champion and return the number of the previous one, which a failed transaction restores."""
    champion = registry.champion()
    previous = champion.number if champion else ""
    transaction = get_transaction()
    if transaction is None:
        raise RuntimeError("the champion can only be moved inside a transaction")
    transaction.set("registry", registry)
    transaction.set("previous", previous)
    registry.set_champion(number)
    return previous


@move_champion.on_rollback
def _restore_champion(transaction: Transaction) -> None:
    registry: Registry = transaction.get("registry")
    registry.set_champion(transaction.get("previous"))


@task(name="smoke test", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def run_smoke_test(adaptation: Adaptation, run: RunResult, served: ModelRef) -> ArtifactRef:
    """Load a model from the folder it is served from, check a few of its recorded answers, and return the record."""
    recorded = run.evaluations["final"]
    config, seed = run.config.evaluate.model_dump(mode="json"), run.config.data_seed
    inputs: dict[str, Input] = {"model": served, "recorded": recorded, "corpus": run.refs["corpus"]}
    options = JobOptions(form=EvaluationSummary.of(recorded).form, attempt=uuid4().hex)
    job = Job(name="smoke", stage="smoke", config=config, seed=seed, inputs=inputs, options=options)
    return run_stage_group(adaptation, [job])["smoke"]


def find_version(registry: Registry, name: str) -> Version:
    """Return a version by its number, by an alias, or by the name of the run that trained it.

    Raises:
        ConfigError: If there is none.
    """
    store = ArtifactStore(registry.runtime.store)
    return first_known(lambda: registry.version(name), lambda: registry.version_of_run(find_run(store, name)))


def record_promotion(registry: Registry, number: str, previous: str, because: str) -> None:
    """Tag the new champion with the previous one, the time and the reason; nothing if it was champion already."""
    if previous != number:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        tags = {_PREVIOUS: previous or _NO_PREVIOUS, _PROMOTION_REASON: because, _PROMOTION_TIME: now}
        registry.tag(number, {**tags, _WITHDRAWAL_REASON: ""})


def record_rollback(registry: Registry, number: str, because: str) -> None:
    """Tag a former champion with the reason of its rollback."""
    registry.tag(number, {_WITHDRAWAL_REASON: because})


def _version(version: "ModelVersion") -> Version:
    folder = unquote(urlparse(version.tags[WEIGHTS]).path)
    previous = version.tags.get(_PREVIOUS, "")
    model = ModelRef(f"{version.name}-{version.version}", str(Path(folder)), version.tags[DIGEST])
    return Version(str(version.version), model, "" if previous == _NO_PREVIOUS else previous)
