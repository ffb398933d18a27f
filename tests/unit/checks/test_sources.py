"""A sample of every source is read before any work, and what cannot be used is named with the fields that are there."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixcpt.checks import sources
from mixcpt.checks.findings import Subject
from mixcpt.config import (
    AdaptConfig,
    BitsPerByteTask,
    FieldNames,
    FilesSource,
    HuggingFaceSource,
    Pool,
    Source,
)
from tests.unit.checks.checked_models import problems, warnings

DIALOGUE = "\n\nHuman: a\n\nAssistant: "
GOOD = {"text": "The keeper wrote down what he saw that night."}


def of(*read: Source) -> Subject:
    """Return a run with some sources, without tasks and model."""
    config = AdaptConfig()
    curation = config.curation.model_copy(update={"sources": read})
    evaluate = config.evaluate.model_copy(update={"tasks": ()})
    return Subject(config.model_copy(update={"curation": curation, "evaluate": evaluate}), None)


def files(path: Path, pool: Pool = "domain", **settings: Any) -> FilesSource:
    return FilesSource(name="mine", pool=pool, paths=(str(path),), **settings)


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("pool", "row", "key", "remedy"),
    [
        ("domain", {"id": 1, "content": "x" * 30}, "fields.text", "{text: content}"),
        ("domain", {"Body": "x" * 30}, "fields.text", "{text: Body}"),
        (
            "instructions",
            {"instruction": "a", "input": "", "output": "b"},
            "fields.prompt",
            "{prompt: instruction, response: output}",
        ),
        ("instructions", {"question": "a", "answer": "b"}, "fields.prompt", "{prompt: question, response: answer}"),
        ("preferences", {"prompt": "a", "accepted": "b", "rejected": "c"}, "fields.chosen", "{chosen: accepted}"),
        (
            "preferences",
            {"chosen": DIALOGUE + "b", "rejected": DIALOGUE + "c"},
            "fields.prompt",
            "dialogue: human_assistant",
        ),
        (
            "instructions",
            {"messages": [{"role": "user", "content": "a"}]},
            "fields.prompt",
            "'messages' holds a conversation",
        ),
        (
            "instructions",
            {"conversations": [{"from": "human", "value": "a"}]},
            "fields.prompt",
            "'conversations' holds a conversation",
        ),
        (
            "preferences",
            {"prompt": "a", "chosen": [{"role": "user", "content": "a"}], "rejected": []},
            "fields.chosen",
            "'chosen' holds a conversation",
        ),
        ("domain", {"zzz": "a"}, "fields.text", "fields: {text: NAME}"),
    ],
)
def test_sources_without_the_fields_name_those_they_have_and_the_setting(
    tmp_path: Path, pool: Pool, row: dict[str, Any], key: str, remedy: str
) -> None:
    (problem,) = problems(sources.check, of(files(lines(tmp_path / "r.jsonl", row, row), pool)))
    assert problem.startswith(f"curation.sources[0].{key}: none of 2 records of mine is usable")
    assert "r.jsonl, line 1" in problem
    assert remedy in problem
    assert any(name in problem for name in row)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_sources_with_suggested_fields_are_accepted(tmp_path: Path, suffix: str) -> None:
    path = lines(tmp_path / "r.jsonl", {"content": GOOD["text"]})
    if suffix == "parquet":
        path = tmp_path / "r.parquet"
        pq.write_table(pa.table({"id": [1], "content": [GOOD["text"]]}), path)
    assert problems(sources.check, of(files(path, fields=FieldNames(text="content")))) == []


def test_parquet_without_the_field_names_all_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "content": ["x" * 30], "year": [3]}), tmp_path / "r.parquet")
    (problem,) = problems(sources.check, of(files(tmp_path / "r.parquet")))
    assert "the record has: id, content, year" in problem
    assert "{text: content}" in problem


def test_parquet_of_bytes_says_bytes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [b"x" * 30]}), tmp_path / "r.parquet")
    (problem,) = problems(sources.check, of(files(tmp_path / "r.parquet")))
    assert "is bytes (a binary column)" in problem
    assert "store the column as text" in problem


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("r.jsonl", b"PAR1" + b"\0" * 60, "is a parquet file"),
        ("r.jsonl", json.dumps(GOOD).encode("utf-16"), "is UTF-16 text"),
        ("r.jsonl", json.dumps(GOOD).encode("utf-16-le"), "NUL bytes"),
        ("r.jsonl", '{"text": "für"}'.encode("latin-1"), "is no valid UTF-8"),
        ("r.jsonl", b'{"text": "a", "text": "b"}', "'text' is given twice"),
        ("r.jsonl", b'"just a string"\nnull\n[]', "holds a str where an object"),
        ("r.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("r.txt", "fünf Häuser".encode("latin-1"), "is no valid UTF-8"),
        ("r.txt", b"PK\x03\x04 and so on", "zip archive"),
        ("r.md", b"%PDF-1.7", "PDF document"),
        ("r.json", b"{", "holds neither a list"),
        ("r.parquet", b"not parquet", "damaged parquet"),
        ("r.jsonl.gz", gzip.compress(json.dumps(GOOD).encode(), mtime=0)[:20], "truncated"),
        ("r.jsonl", b"", "hold no record"),
        ("r.json", b"[]", "hold no record"),
    ],
)
def test_damaged_and_foreign_files_are_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    (problem,) = problems(sources.check, of(files(tmp_path / name)))
    assert problem.startswith("curation.sources[0]")
    assert reason in problem
    assert "\n    -> " in problem


def test_gzip_content_without_its_suffix_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert list(sources.check(of(files(tmp_path / "r.jsonl")))) == []


def test_windows_line_ends_and_byte_order_mark_are_no_problem(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([json.dumps(GOOD).encode()] * 3) + b"\r\n{bad")
    assert problems(sources.check, of(files(tmp_path / "r.jsonl"))) == []
    (warning,) = warnings(sources.check, of(files(tmp_path / "r.jsonl")))
    assert "1 of 4 records of mine are unusable (25%); the first: r.jsonl, line 4" in warning


def test_dialogues_with_windows_line_ends_are_read(tmp_path: Path) -> None:
    dialogue = "\r\n\r\nHuman: hi\r\n\r\nAssistant: "
    path = lines(tmp_path / "r.jsonl", {"chosen": dialogue + "hello", "rejected": dialogue + "no"})
    assert list(sources.check(of(files(path, "preferences", dialogue="human_assistant")))) == []


def test_documents_that_are_all_too_short_are_refused_with_the_limit(tmp_path: Path) -> None:
    (problem,) = problems(sources.check, of(files(lines(tmp_path / "r.jsonl", {"text": "short"}))))
    assert "shorter than 20 characters" in problem
    assert "curation.min_characters" in problem


def test_unknown_files_of_a_folder_are_one_warning(tmp_path: Path) -> None:
    lines(tmp_path / "r.jsonl", GOOD)
    for name in ("a.pdf", "b.pdf", "c.docx"):
        (tmp_path / name).write_text("x")
    (warning,) = warnings(sources.check, of(files(tmp_path)))
    assert "3 files of mine are left out (2 .pdf, 1 .docx): a.pdf, b.pdf, c.docx" in warning


def test_every_kind_of_file_of_a_folder_is_sampled(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", *[GOOD] * 5_000)
    lines(tmp_path / "z.json", GOOD, {"content": "x" * 30})
    (warning,) = warnings(sources.check, of(files(tmp_path)))
    assert "1 of 202 records" in warning
    assert "z.json, line 2" in warning


def test_dataset_folder_without_the_field_names_its_columns(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"id": "1", "content": "x" * 30}]).save_to_disk(tmp_path / "saved")
    source = HuggingFaceSource(name="mine", pool="domain", path=str(tmp_path / "saved"))
    (problem,) = problems(sources.check, of(source))
    assert "the record has: id, content" in problem


def test_dataset_folder_that_cannot_be_loaded_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (problem,) = problems(
        sources.check, of(HuggingFaceSource(name="mine", pool="domain", path=str(tmp_path / "empty")))
    )
    assert "cannot be loaded" in problem


@pytest.mark.parametrize(
    ("texts", "num_problems"),
    [
        (["One short document."], 1),
        ([f"Note number {number} is short." for number in range(3)], 1),
        ([f"Document number {number} is short." for number in range(7)], 0),
        (["A sentence of a long document. " * 40], 0),
    ],
)
def test_task_about_heldout_text_is_refused_only_without_any(
    tmp_path: Path, texts: list[str], num_problems: int
) -> None:
    checked = of(files(lines(tmp_path / "r.jsonl", *({"text": text} for text in texts))))
    task = BitsPerByteTask(name="read", group="domain", heldout_pool="domain")
    evaluate = checked.config.evaluate.model_copy(update={"tasks": (task,)})
    curation = checked.config.curation.model_copy(update={"min_characters": 5, "heldout_fraction": 0.05})
    config = checked.config.model_copy(update={"evaluate": evaluate, "curation": curation})
    found = problems(sources.check, Subject(config, None))
    assert len(found) == num_problems
    assert all(problem.startswith("evaluate.tasks[0]: read measures held-out text") for problem in found)
