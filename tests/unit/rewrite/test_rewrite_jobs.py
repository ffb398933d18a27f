"""The stage in a run: its place among the jobs, its key, and the mixture that reads its texts."""

import json
from pathlib import Path

from mixcpt.closed_world.documents import documents_of
from mixcpt.closed_world.world import world
from mixcpt.config import AdaptConfig, BaseModelConfig
from mixcpt.mixture.account import MixtureAccount
from mixcpt.records.run import Adapting, deciding_settings
from mixcpt.stages.chain import curation_job, pretraining_jobs
from mixcpt.stages.registry import find_stage, split_finished
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import resolve_model
from mixcpt.store.spool import NullTracker

NUM_ENTITIES = 10


def write_texts(path: Path) -> None:
    """Write a second wording of every document of the world, as if it had been made elsewhere."""
    entities = world(0, NUM_ENTITIES).domain
    lines = [
        {
            "document": f"{entity.kind}/{entity.name}/0",
            "form": "paraphrase",
            "text": documents_of(entity, 0, 2)[1],
        }
        for entity in entities
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def config(texts: Path, forms: tuple[str, ...] = ("paraphrase",)) -> AdaptConfig:
    source = {"kind": "closed_world", "entities": NUM_ENTITIES, "wordings": 1, "notes": False}
    return AdaptConfig.model_validate(
        {
            "curation": {"sources": [{**source, "name": "world", "pool": "domain"}], "heldout_fraction": 0.0},
            "rewrite": {"forms": forms, "generator": {"kind": "files", "paths": [str(texts)]}},
            "mixture": {"weights": {"domain": 1, "instructions": 0, "preferences": 0}, "total_tokens": 2_000},
            "pretrain": {"method": {"kind": "cpt"}},
            "align": {"selection": {"num_instructions": 0, "num_preferences": 0}},
            "evaluate": {
                "tasks": [{"kind": "closed_world", "about": "domain", "entities": NUM_ENTITIES, "name": "domain"}],
                "headline_domain": "domain",
                "headline_general": "",
            },
        }
    )


def run(jobs: list[str], settings: AdaptConfig, store: ArtifactStore) -> dict[str, ArtifactRef]:
    """Run curation and the named jobs of pre-training."""
    adapting = Adapting(settings, resolve_model(BaseModelConfig()))
    results = {"curate": find_stage("curate").run_job(curation_job(settings), store, NullTracker())}
    for job in pretraining_jobs(adapting, results["curate"]):
        if job.name in jobs:
            results[job.name] = find_stage(job.stage).run_job(job.resolve(results), store, NullTracker())
    return results


def test_mixture_reads_documents_and_texts(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts.jsonl")
    settings = config(tmp_path / "texts.jsonl")
    store = ArtifactStore(tmp_path / "store")
    results = run(["rewrite", "mix"], settings, store)
    sources = {source.name: source for source in MixtureAccount.of(results["mix"]).sources}
    assert sources.keys() == {"world", "world.paraphrase"}
    assert all(source.tokens > 0 for source in sources.values())
    assert sources["world"].documents >= sources["world.paraphrase"].documents > NUM_ENTITIES // 2


def test_finished_stages_are_found_again(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts.jsonl")
    settings = config(tmp_path / "texts.jsonl")
    store = ArtifactStore(tmp_path / "store")
    results = run(["rewrite", "mix"], settings, store)
    jobs = pretraining_jobs(Adapting(settings, resolve_model(BaseModelConfig())), results["curate"])
    found, missing = split_finished(jobs, store)
    assert found["rewrite"].fingerprint == results["rewrite"].fingerprint
    assert found["mix"].fingerprint == results["mix"].fingerprint
    assert [job.name for job in missing] == ["pretrain"]


def test_run_without_forms_has_no_such_stage_and_the_settings_of_before(tmp_path: Path) -> None:
    settings = config(tmp_path / "none.jsonl", forms=())
    base = resolve_model(BaseModelConfig())
    jobs = pretraining_jobs(Adapting(settings, base), ArtifactRef("corpus", "", "", ""))
    assert [job.name for job in jobs] == ["mix", "pretrain"]
    assert "rewrite" not in deciding_settings(settings)
    assert "rewrite" in deciding_settings(config(tmp_path / "none.jsonl"))
