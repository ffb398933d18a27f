"""Tokens of the sources, rows and steps of a plan, against the mixture that mixing makes of the same files."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from mixcpt.config import (
    AdaptConfig,
    BaseModelConfig,
    BitsPerByteTask,
    CurationConfig,
    EvaluateConfig,
    FilesSource,
    MixtureConfig,
    PoolWeights,
    PretrainConfig,
)
from mixcpt.curation.pipeline import curate
from mixcpt.mixture.pipeline import mix
from mixcpt.planning.estimates import num_checkpoints
from mixcpt.planning.load import Load, count_load
from mixcpt.planning.workload import StreamLoad, num_steps
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import resolve_model

BASE = BaseModelConfig()
DOCUMENT = "The capital of Boren is Alda. It lies by the river. The river of Alda is deep. Everybody there knows it."
TASKS = EvaluateConfig(
    tasks=(BitsPerByteTask(name="text", group="domain", heldout_pool="domain"),),
    headline_domain="text",
    headline_general="text",
)


def lines(path: Path, records: Sequence[dict[str, str]]) -> tuple[str, ...]:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return (str(path),)


def config_of(folder: Path, method: dict[str, object], weights: PoolWeights) -> AdaptConfig:
    near = [{"text": f"{DOCUMENT} This is number {number}."} for number in range(60)]
    far = [{"text": f"{DOCUMENT} {DOCUMENT} This is number {number} of another kind."} for number in range(30)]
    asked = [{"prompt": f"what is {number} ?", "response": f"a number , {number} ."} for number in range(40)]
    sources = (
        FilesSource(name="near", pool="domain", paths=lines(folder / "near.jsonl", near)),
        FilesSource(name="far", pool="domain", paths=lines(folder / "far.jsonl", far)),
        FilesSource(name="asked", pool="instructions", paths=lines(folder / "asked.jsonl", asked)),
    )
    return AdaptConfig(
        base=BASE,
        curation=CurationConfig(sources=sources, heldout_fraction=0.1),
        mixture=MixtureConfig(weights=weights, total_tokens=20_001, row_tokens=128),
        pretrain=PretrainConfig.model_validate({"method": method, "batch_rows": 8, "micro_batch_rows": 4}),
        align={"selection": {"num_instructions": 20, "num_preferences": 0}},  # type: ignore[arg-type]
        evaluate=TASKS,
    )


def mixed(config: AdaptConfig, store: ArtifactStore) -> dict[str, object]:
    corpus = curate(config.curation, seed=config.data_seed, store=store)
    streams = config.pretrain.method.streams()
    base = resolve_model(config.base)
    mixture = mix(config.mixture, corpus, base, seed=config.seed, store=store, streams=streams)
    account: dict[str, object] = json.loads(mixture.file("accounting.json").read_text())
    return account


def load(config: AdaptConfig, store: ArtifactStore) -> Load:
    return count_load(config, resolve_model(config.base), store)


def test_plan_before_curation_gives_every_pool_its_exact_share(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"kind": "lssd"}, PoolWeights(domain=2, instructions=1, preferences=0))
    counted = load(config, ArtifactStore(tmp_path / "store")).workload
    read = {source.name: source.tokens for source in counted.sources}
    assert read["near"] + read["far"] == 13_334
    assert read["asked"] == 6_667
    assert counted.rows == 157  # 20,001 tokens in rows of 128
    assert counted.steps == 20  # of 8 rows
    assert counted.student_tokens == counted.teacher_tokens == counted.tokens == 157 * 128


def test_plan_before_curation_estimates_unique_tokens_of_what_mixing_counts(tmp_path: Path) -> None:
    config, store = (
        config_of(tmp_path, {"kind": "lssd"}, PoolWeights(domain=1, instructions=1, preferences=0)),
        ArtifactStore(tmp_path / "store"),
    )
    planned = {source.name: source for source in load(config, store).workload.sources}
    assert not planned["near"].is_exact
    account = mixed(config, store)
    for source in account["sources"]:  # type: ignore[attr-defined]
        assert planned[source["name"]].unique_tokens == pytest.approx(source["unique_tokens"], rel=0.15)
        assert planned[source["name"]].passes == pytest.approx(source["passes"], rel=0.15)


def test_plan_of_a_mixture_in_the_store_is_exact(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"kind": "lssd"}, PoolWeights(domain=1, instructions=1, preferences=0))
    store = ArtifactStore(tmp_path / "store")
    account = mixed(config, store)
    counted = load(config, store)
    assert isinstance(counted.corpus, ArtifactRef)
    assert counted.workload.rows == account["num_rows"]
    assert {source.name: (source.tokens, source.unique_tokens) for source in counted.workload.sources} == {
        source["name"]: (source["tokens"], source["unique_tokens"])
        for source in account["sources"]  # type: ignore[attr-defined]
    }
    assert all(source.is_exact for source in counted.workload.sources)


def test_plan_of_pairs_counts_what_student_and_teacher_read_apart(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"kind": "disc"}, PoolWeights(domain=1, instructions=0, preferences=0))
    store = ArtifactStore(tmp_path / "store")
    counted = load(config, store).workload
    (stream,) = mixed(config, store)["streams"]  # type: ignore[misc]
    assert counted.rows == pytest.approx(stream["num_rows"], rel=0.05)
    assert counted.student_tokens == pytest.approx(stream["student_tokens"], rel=0.05)
    assert counted.student_tokens < counted.teacher_tokens
    assert counted.mix_seconds < 60


def test_plan_of_alignment_counts_samples_steps_and_epochs(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"kind": "lssd"}, PoolWeights(domain=1, instructions=1, preferences=0))
    aligned = load(config, ArtifactStore(tmp_path / "store")).alignment
    assert aligned is not None and list(aligned.stages) == ["sft"]
    assert aligned.num_candidates == 40
    sft = aligned.stages["sft"]
    assert sft.num_samples == 20
    assert sft.steps == 3 * 2  # three epochs of 16 and 4
    assert sft.tokens == pytest.approx(20 * 3 * aligned.candidate_tokens / 40 / 2, rel=0.02)  # both forms


def stream(rows: int, *, phase: int) -> StreamLoad:
    return StreamLoad(rows=rows, student_tokens=0, teacher_tokens=0, phase=phase)


def test_steps_fill_every_phase_up_to_whole_batches() -> None:
    phases = [stream(9, phase=0), stream(4, phase=0), stream(1, phase=1)]
    assert num_steps(phases, 8) == 2 + 1


def test_checkpoints_are_written_at_their_steps_and_at_the_end() -> None:
    assert [num_checkpoints(steps, 100) for steps in (10, 100, 101, 440)] == [1, 1, 2, 5]
