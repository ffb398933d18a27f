"""Plans of rounds: new, learned and refused corpora."""

import json
from pathlib import Path

import pytest

from mixcpt.config import AdaptConfig, CorpusConfig, FilesSource, ReadaptConfig
from mixcpt.curation.pipeline import curate
from mixcpt.rounds.planning import RoundPlan, plan_round, register_own
from mixcpt.rounds.registration import list_deliveries, register
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef
from tests.unit.report_artifacts import publish


def source(folder: Path, name: str, count: int = 40) -> FilesSource:
    folder.mkdir(exist_ok=True, parents=True)
    lines = (json.dumps({"id": f"d{n}", "text": f"Of {name}, document {n} of many."}) for n in range(count))
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return FilesSource(name=name, pool="domain", paths=(str(folder / f"{name}.jsonl"),))


def rounds_config(tmp_path: Path, **changes: object) -> ReadaptConfig:
    general = tmp_path / "general.jsonl"
    general.write_text(json.dumps({"prompt": "Who?", "response": "Nobody."}))
    text = tmp_path / "text.txt"
    text.write_text("Something else entirely.")
    adapt = {
        "curation": {
            "sources": [
                source(tmp_path, "first").model_dump(mode="json"),
                {"kind": "files", "name": "general", "pool": "instructions", "paths": [str(general)]},
            ]
        },
        "mixture": {"weights": {"domain": 0.6, "instructions": 0.4, "preferences": 0}},
        "align": {"selection": {"num_instructions": 0, "num_preferences": 0}},
        "evaluate": {
            "tasks": [
                {"kind": "bits_per_byte", "name": "held_out", "group": "domain", "heldout_pool": "domain"},
                {"kind": "bits_per_byte", "name": "elsewhere", "group": "general", "path": str(text)},
            ],
            "headline_domain": "held_out",
            "headline_general": "elsewhere",
        },
        "runtime": {"store": str(tmp_path / "store")},
    }
    return ReadaptConfig.model_validate({"name": "rounds", "adapt": adapt, **changes})


def trained(store: ArtifactStore, plan: RoundPlan) -> ModelRef:
    """The model that a round would make: of a mixture of the corpus that its settings really curate."""
    corpus = curate(plan.config.curation, seed=plan.config.data_seed, store=store)
    mixture = publish(store, "mixture", {"x.json": plan.number}, inputs={"corpus": corpus.digest})

    def build(folder: Path) -> dict[str, int]:
        (folder / "weights").write_text(plan.config.name)
        return {}

    key = StageKey("model", 1, {"stage": "pretrain"}, {"mixture": mixture.digest, "base": plan.config.base.model})
    made: ArtifactRef = store.produce(key, build)
    return ModelRef.from_artifact(made, plan.config.name)


def first_champion(config: ReadaptConfig, store: ArtifactStore) -> ModelRef:
    register_own(config.adapt, store)
    plan = plan_round(config, None, (), 1, store)
    assert plan is not None
    return trained(store, plan)


def test_first_round_learns_the_sources_of_the_settings(tmp_path: Path) -> None:
    config, store = rounds_config(tmp_path), ArtifactStore(tmp_path / "store")
    register_own(config.adapt, store)
    plan = plan_round(config, None, (), 1, store)
    assert plan is not None
    assert (plan.new, plan.earlier) == (("first",), ())
    assert plan.tasks == {"first": ("first_bits_per_byte",), "": ("elsewhere",)}
    assert plan.config.evaluate.headline_domain == "first_bits_per_byte"
    assert plan.config.base == config.adapt.base


def test_round_without_anything_new_is_none(tmp_path: Path) -> None:
    config, store = rounds_config(tmp_path), ArtifactStore(tmp_path / "store")
    champion = first_champion(config, store)
    register_own(config.adapt, store)
    assert plan_round(config, champion, (), 2, store) is None


def test_later_round_learns_what_is_new_and_replays_the_rest(tmp_path: Path) -> None:
    config, store = rounds_config(tmp_path), ArtifactStore(tmp_path / "store")
    champion = first_champion(config, store)
    register(CorpusConfig(source=source(tmp_path, "second")), store)
    plan = plan_round(config, champion, (), 2, store)
    assert plan is not None
    assert (plan.new, plan.earlier) == (("second",), ("first",))
    pools = {each.name: each.pool for each in plan.config.curation.sources}
    assert pools == {"second": "domain", "first": "general", "general": "instructions"}
    assert plan.config.mixture.weights.general == pytest.approx(config.replay_weight)
    assert plan.config.base.model == champion.path
    assert [(task.name, task.group) for task in plan.config.evaluate.tasks] == [
        ("second_bits_per_byte", "domain"),
        ("first_bits_per_byte", "general"),
        ("elsewhere", "general"),
    ]
    follower = trained(store, plan)
    assert plan_round(config, follower, (), 3, store) is None


def test_round_from_the_base_learns_everything_again(tmp_path: Path) -> None:
    config, store = rounds_config(tmp_path, start="base"), ArtifactStore(tmp_path / "store")
    champion = first_champion(config, store)
    register(CorpusConfig(source=source(tmp_path, "second")), store)
    plan = plan_round(config, champion, (), 2, store)
    assert plan is not None
    assert {each.name: each.pool for each in plan.config.curation.sources if each.name != "general"} == {
        "first": "domain",
        "second": "domain",
    }
    assert plan.config.base == config.adapt.base
    assert (plan.new, plan.earlier) == (("second",), ("first",))


def test_refused_corpus_is_left_out_until_it_is_requested(tmp_path: Path) -> None:
    config, store = rounds_config(tmp_path), ArtifactStore(tmp_path / "store")
    champion = first_champion(config, store)
    register(CorpusConfig(source=source(tmp_path, "bad")), store)
    assert plan_round(config, champion, ("bad",), 2, store) is None
    plan = plan_round(config, champion, (), 2, store)
    assert plan is not None
    assert plan.new == ("bad",)


def test_folder_that_has_grown_is_a_second_delivery(tmp_path: Path) -> None:
    config, store = rounds_config(tmp_path), ArtifactStore(tmp_path / "store")
    champion = first_champion(config, store)
    source(tmp_path, "first", count=70)
    register_own(config.adapt, store)
    plan = plan_round(config, champion, (), 2, store)
    assert plan is not None
    assert (plan.new, plan.earlier) == (("first-2",), ("first",))
    assert [each.num_documents + each.num_heldout for each in list_deliveries(store)] == [40, 30]


def test_method_that_reads_no_general_text_cannot_replay(tmp_path: Path) -> None:
    adapt = rounds_config(tmp_path).adapt.model_dump(mode="json")
    adapt["mixture"]["weights"] |= {"instructions": 0}
    adapt["pretrain"]["method"] = {"kind": "cpt"}
    with pytest.raises(ValueError, match="set replay_weight to 0"):
        ReadaptConfig.model_validate({"adapt": adapt})
    assert ReadaptConfig.model_validate({"adapt": adapt, "replay_weight": 0}).adapt == AdaptConfig.model_validate(adapt)


def test_corpus_outside_the_domain_pool_is_refused(tmp_path: Path) -> None:
    general = source(tmp_path, "general").model_copy(update={"pool": "general"})
    with pytest.raises(ValueError, match="set pool to domain"):
        CorpusConfig(source=general)
