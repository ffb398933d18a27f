"""Lineage from a model back to its files, and from a document forward to the models."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from mixcpt.config import BaseModelConfig, CurationConfig, FilesSource
from mixcpt.curation.pipeline import curate
from mixcpt.report.ancestry import ancestry_tree, runs_of, trace_document
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.lineage import Catalogue
from mixcpt.store.models import ModelRef, digest_as_base, resolve_model
from tests.unit.report_artifacts import publish


def corpus(store: ArtifactStore, folder: Path, name: str, text: str) -> ArtifactRef:
    file = folder / f"{name}.jsonl"
    rows = [{"id": f"{name}-{n}", "text": f"{text}, {n} times over."} for n in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = FilesSource(name=name, pool="domain", paths=(str(file),))
    return curate(CurationConfig(sources=(source,)), seed=0, store=store)


def model(store: ArtifactStore, of: ArtifactRef, base: str, tiny: ModelRef) -> ArtifactRef:
    """Model made from a mixture of the corpus and a base model; its weights are the tiny model's."""
    mixture = publish(
        store, "mixture", {"x.json": of.digest}, metrics={"total_tokens": 9}, inputs={"corpus": of.digest}
    )

    def build(folder: Path) -> dict[str, int]:
        (folder / "model").mkdir()
        for file in tiny.directory.iterdir():
            (folder / "model" / file.name).write_bytes(file.read_bytes())
        (folder / "model" / "generation_config.json").write_text(f'{{"made_of": "{of.digest}"}}')
        (folder / "history.json").write_text("[]")
        return {"steps": 5}

    key = StageKey("model", 1, {"stage": "pretrain"}, {"mixture": mixture.digest, "base": base})
    return store.produce(key, build, lineage={"base": "tiny"})


@pytest.fixture
def chain(tmp_path: Path, tiny_model: ModelRef) -> tuple[ArtifactStore, ArtifactRef, ArtifactRef]:
    """Two rounds; the second one starts from the model folder of the first one."""
    store = ArtifactStore(tmp_path / "store")
    first = model(store, corpus(store, tmp_path, "bones", "A femur"), tiny_model.digest, tiny_model)
    start = resolve_model(BaseModelConfig(model=str(first.file("model"))))
    second = model(store, corpus(store, tmp_path, "minds", "A memory"), start.digest, tiny_model)
    return store, first, second


def test_digest_as_base_is_that_of_the_model_as_a_base(chain: tuple[ArtifactStore, ArtifactRef, ArtifactRef]) -> None:
    _, first, _ = chain
    assert (
        digest_as_base(first) == resolve_model(BaseModelConfig(model=str(first.file("model")))).digest != first.digest
    )


def test_catalogue_follows_rounds_that_start_from_each_other(
    chain: tuple[ArtifactStore, ArtifactRef, ArtifactRef],
) -> None:
    store, first, second = chain
    catalogue = Catalogue(store)
    assert set(catalogue.texts_read(first)) == {"bones"}
    assert set(catalogue.texts_read(second)) == {"bones", "minds"}
    assert second in catalogue.descendants(first)
    assert first not in catalogue.descendants(second)


def test_descent_names_files_and_base(chain: tuple[ArtifactStore, ArtifactRef, ArtifactRef]) -> None:
    store, _, second = chain
    console = Console(width=200, record=True)
    console.print(ancestry_tree(Catalogue(store), second).to_tree())
    text = console.export_text()
    for part in ("bones.jsonl", "minds.jsonl", "base model tiny", "mixture of 9 tokens", "pretrain, 5 steps"):
        assert text.count(part) >= 1, text


@pytest.mark.parametrize("wanted", ["bones-7", "bones/bones-7", "A femur, 7 times"])
def test_reached_document_leads_to_every_model_after_it(
    chain: tuple[ArtifactStore, ArtifactRef, ArtifactRef], wanted: str
) -> None:
    store, first, second = chain
    (found,) = trace_document(Catalogue(store), wanted)
    if found.part == "read":
        assert {ref.fingerprint for ref in found.models} == {first.fingerprint, second.fingerprint}
    else:
        assert (found.part, found.models) == ("held out", ())


def test_reached_file_by_its_path_and_unknown_text(chain: tuple[ArtifactStore, ArtifactRef, ArtifactRef]) -> None:
    store, _, second = chain
    (found,) = trace_document(Catalogue(store), "somewhere/minds.jsonl")
    assert [ref.fingerprint for ref in found.models] == [second.fingerprint]
    assert trace_document(Catalogue(store), "not in any text") == []
    assert runs_of(Catalogue(store), second) == []
