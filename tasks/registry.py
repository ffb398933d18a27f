"""Registers the final model in MLflow, once per set of weights, as challenger of the champion."""

from prefect import task

from mixcpt.report.cards.card import shortened
from mixcpt.store.artifacts import ArtifactRef
from tasks.adaptation import Adaptation
from tasks.stage_runs import DIGEST, WEIGHTS, find_model
from tasks.tracking import Tracking, forgiving
from tasks.watching import wait_until_recorded

ALIAS = "challenger"
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
        client.create_registered_model(
            name, description="Models that mixcpt adapted; weights stay in the artifact store."
        )
    versions = client.search_model_versions(f"name = '{name}'")
    registered = [version for version in versions if version.tags.get(DIGEST) == final.digest]
    if registered:
        number = str(registered[0].version)
    else:
        model = find_model(tracking, final.digest)
        if model is None:
            return ""
        tags = {DIGEST: final.digest, WEIGHTS: final.file("model").as_uri()}
        created = client.create_model_version(
            name, source=model.model_uri, run_id=run_id or None, tags=tags, model_id=model.model_id
        )
        number = str(created.version)
    client.set_registered_model_alias(name, ALIAS, number)
    return number


def describe_version(tracking: Tracking, name: str, version: str, card: str) -> None:
    """Set the model card as the description of a version, unless it has one already."""
    if version and not tracking.client.get_model_version(name, version).description:
        tracking.client.update_model_version(name, version, description=shortened(card, _MAX_DESCRIPTION))
