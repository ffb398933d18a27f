"""Documents in a row of a mixture: id, source and text of every part."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mixcpt.config import DiscMethod, Method, MixtureConfig, PoolWeights, ReadingMethod, StreamConfig
from mixcpt.mixture.origins import Origins
from mixcpt.mixture.pipeline import mix
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.train.data import MixtureRows
from tests.unit.mixture.test_views_pairs import curated, sentence

ROW_TOKENS = 64
DOMAIN = PoolWeights(domain=1, instructions=0, preferences=0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> ArtifactRef:
    """Two sources of documents of several sentences, the second with documents longer than a row."""
    draw = np.random.default_rng(4)
    texts = [" ".join(sentence(draw) for _ in range(draw.integers(3, 6))) for _ in range(20)]
    long = [" ".join(sentence(draw) for _ in range(25)) for _ in range(3)]
    return curated(tmp_path_factory.mktemp("origins"), {"first": texts[:10], "second": [*texts[10:], *long]})


def mixed(corpus: ArtifactRef, base: ModelRef, folder: Path, streams: tuple[StreamConfig, ...]) -> ArtifactRef:
    config = MixtureConfig(total_tokens=4000, row_tokens=ROW_TOKENS, weights=DOMAIN)
    return mix(config, corpus, base, seed=0, store=ArtifactStore(folder / "store"), streams=streams)


@pytest.mark.parametrize("method", [None, DiscMethod(), ReadingMethod()])
def test_every_part_of_a_row_has_the_id_and_the_words_of_its_document(
    method: Method | None, corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path
) -> None:
    streams = method.streams() if method else (StreamConfig(),)
    mixture = mixed(corpus, tiny_model, tmp_path, streams)
    documents = {row["doc_id"]: row for row in pq.read_table(corpus.file("documents.parquet")).to_pylist()}
    rows, origins = MixtureRows(mixture.directory, 1), Origins(mixture, tiny_model)
    parts = [part for index in range(len(rows)) for part in origins.parts(rows[index].columns)]
    assert len(parts) > len(rows)
    for part in parts:
        document = documents[part.document]
        assert part.source == document["source"]
        words = part.text.split()
        if method is None:
            assert " ".join(words[1:-1]) in " ".join(document["text"].split())
        else:
            assert not words or set(words) & set(document["text"].split())
    assert {part.document.split("/")[0] for part in parts} == {"first", "second"}


def test_documents_of_a_corpus_that_is_gone_have_no_id(
    corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = mixed(corpus, tiny_model, tmp_path, (StreamConfig(),))
    monkeypatch.setattr("mixcpt.mixture.origins.CORPUS_FILES", {"domain": "moved.parquet"})
    rows = MixtureRows(mixture.directory, 1)
    parts = Origins(mixture, tiny_model).parts(rows[0].columns)
    assert parts
    assert all(part.text and part.source and not part.document for part in parts)
