"""Records that curation loses are reported by source; the time to read and clean a long line grows with its length."""

import json
import logging
from pathlib import Path

import pytest

from mixcpt.config import CurationConfig, FilesSource
from mixcpt.curation import readers
from mixcpt.curation.pipeline import curate
from mixcpt.curation.records import RawRecord
from mixcpt.curation.steps import clean_text
from mixcpt.store.artifacts import ArtifactStore

GOOD = "The keeper wrote down what he saw that night, number "


def test_curation_logs_one_line_per_source_with_counts_and_the_first_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*({"text": f"{GOOD}{number}"} for number in range(3)), {"text": None}, {"text": "short"}]
    for name in ("docs", "more"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "docs" / "old.pdf").write_text("x")
    sources = tuple(FilesSource(name=name, pool="domain", paths=(str(tmp_path / name),)) for name in ("docs", "more"))
    store, config = ArtifactStore(tmp_path / "store"), CurationConfig(sources=sources, heldout_fraction=0.0)
    with caplog.at_level(logging.INFO, logger="mixcpt.curation"):
        corpus = curate(config, seed=0, store=store)
        curate(config, seed=0, store=store)
    lines = [record for record in caplog.records if record.name == "mixcpt.curation"]
    assert [line.levelname for line in lines] == ["WARNING", "WARNING"]
    docs, more = (line.getMessage() for line in lines)
    assert docs.startswith("docs: 5 records read; 3 kept; 1 unusable, listed in ")
    assert str(corpus.file("quarantine.parquet")) in docs
    assert "the first: r.jsonl, line 4, field 'text': is null" in docs
    assert "1 files of unknown kinds left out (1 .pdf)" in docs
    assert "more: 5 records read; 0 kept" in more


@pytest.mark.parametrize("line_bytes", [10, 1_000, 5_000])
def test_long_lines_are_joined_once_whatever_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line_bytes: int
) -> None:
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 64)
    texts = ["x" * line_bytes, "y", "z" * line_bytes]
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    items = list(readers.read_file(path, "r.jsonl", FilesSource(name="s", pool="domain", paths=(str(path),))))
    assert [item.values["text"] for item in items if isinstance(item, RawRecord)] == texts


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.txt"])
def test_record_above_the_maximum_size_is_a_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(readers, "MAX_RECORD_BYTES", 2**20)
    path = tmp_path / name
    path.write_text(json.dumps({"text": "x" * 2**22}))
    (item,) = readers.read_file(path, name, FilesSource(name="s", pool="domain", paths=(str(path),)))
    assert "of more than 1 MiB" in str(item)


def test_clean_text_of_long_runs_of_space_and_of_end_marks_is_linear() -> None:
    """A quadratic search would need minutes for these texts."""
    assert clean_text("a" + " " * 2_000_000 + "b") == "a" + " " * 2_000_000 + "b"
    assert clean_text("a" + " <|im_end|>\n" * 200_000) == "a"
