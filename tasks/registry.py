"""Registers the final model in MLflow, once per set of weights, as the challenger of whatever serves now."""

from prefect import task

from mixcpt.report.cards.card import shortened
from mixcpt.store.artifacts import ArtifactRef
from tasks.adaptation import Adaptation
from tasks.stage_runs import DIGEST, WEIGHTS, find_model
from tasks.tracking import Tracking, forgiving
from tasks.watching import wait_until_recorded

ALIAS = "challenger"
_MAX_DESCRIPTION = 5000
"""Characters that MLflow's table of versions holds; PostgreSQL refuses more."""


@task(name="register")
def register(adaptation: Adaptation, final: ArtifactRef) -> str:
    """Returns the version under which the final model is registered; empty while MLflow is away."""
    wait_until_recorded(adaptation)  # the version points to the logged model
    name = adaptation.config.runtime.registered_model
    return register_version(adaptation.tracking, name, final, adaptation.run_id) or ""


@forgiving
def register_version(tracking: Tracking, name: str, final: ArtifactRef, run_id: str) -> str:
    """Returns the version of these weights, with the alias `challenger`; creates it where there is none."""
    client = tracking.client
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(
            name, description="Models that mixcpt adapted; weights stay in the artifact store."
        )
    known = [
        version
        for version in client.search_model_versions(f"name = '{name}'")
        if version.tags.get(DIGEST) == final.digest
    ]
    if known:
        version = str(known[0].version)
    else:
        model = find_model(tracking, final.digest)
        if model is None:
            return ""
        tags = {DIGEST: final.digest, WEIGHTS: final.file("model").as_uri()}
        created = client.create_model_version(
            name, source=model.model_uri, run_id=run_id or None, tags=tags, model_id=model.model_id
        )
        version = str(created.version)
    client.set_registered_model_alias(name, ALIAS, version)
    return version


def describe_version(tracking: Tracking, name: str, version: str, card: str) -> None:
    """Shows the model card on the page of a version; what somebody wrote there already stays."""
    if version and not tracking.client.get_model_version(name, version).description:
        tracking.client.update_model_version(name, version, description=shortened(card, _MAX_DESCRIPTION))
