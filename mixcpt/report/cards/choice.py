"""Which records tell of a model: the run that made it, the merge that it is, or none."""

import json

from mixcpt.records.run import RunResult, load_run
from mixcpt.report.cards.card import foreign_card, merge_card, model_card
from mixcpt.stages.registry import trained_roles
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef


def card_of(model: ModelRef, store: ArtifactStore) -> str:
    """Returns the card of any model: from its run, its merge, its own README.md, or with next to nothing in it."""
    record = model.directory.parent / "record.json"
    if model.directory.name != "model" or not record.is_file():
        return foreign_card(model)
    made = json.loads(record.read_text())
    if "models" in made["lineage"]:
        ref = ArtifactRef(made["kind"], made["fingerprint"], made["digest"], str(record.parent))
        return merge_card(ref, str(made["lineage"].get("name", "")))
    found = _find_run(store, made["fingerprint"])
    return model_card(found[0], store, found[1]) if found else foreign_card(model)


def _find_run(store: ArtifactStore, fingerprint: str) -> tuple[RunResult, str] | None:
    """Returns the newest run that has this model, and its role there; runs that end with it come first."""
    runs = [load_run(ref) for ref in reversed(store.list("run"))]
    roles = [(run, role) for run in runs for role in trained_roles() if role in run.refs]
    made = [(run, role) for run, role in roles if run.refs[role].fingerprint == fingerprint]
    return min(made, key=lambda pair: pair[0].final != pair[1], default=None)
