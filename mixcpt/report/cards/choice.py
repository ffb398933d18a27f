"""Choice of the model card: from the run or the merge that made the model, or without a record."""

import json
from itertools import product

from mixcpt.records.run import RunResult, load_run
from mixcpt.report.cards.card import foreign_card, merge_card, model_card
from mixcpt.stages.registry import trained_roles
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef


def card_of(model: ModelRef, store: ArtifactStore) -> str:
    """Return the card of a model: from its run, its merge or its own README.md, otherwise a minimal card."""
    record = model.directory.parent / "record.json"
    if model.directory.name != "model" or not record.is_file():
        return foreign_card(model)
    artifact = json.loads(record.read_text())
    if "models" in artifact["lineage"]:
        ref = ArtifactRef(artifact["kind"], artifact["fingerprint"], artifact["digest"], str(record.parent))
        return merge_card(ref, str(artifact["lineage"].get("name", "")))
    if match := _find_run(store, artifact["fingerprint"]):
        run, role = match
        return model_card(run, store, role)
    return foreign_card(model)


def _find_run(store: ArtifactStore, fingerprint: str) -> tuple[RunResult, str] | None:
    """Return the newest run with this model and the role of the model, preferring runs that end with it."""
    runs = [load_run(ref) for ref in reversed(store.list("run"))]
    matches = []
    for run, role in product(runs, trained_roles()):
        if role in run.refs and run.refs[role].fingerprint == fingerprint:
            matches.append((run, role))
    return min(matches, key=lambda pair: pair[0].final != pair[1], default=None)
