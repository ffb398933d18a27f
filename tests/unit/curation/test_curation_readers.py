"""Every kind of file is read; every defect is quarantined with file, line and field, and the rest is read."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixcpt.config import CurationConfig, FieldNames, FilesSource, Pool
from mixcpt.curation.files import find_files
from mixcpt.curation.records import Defect, Record
from mixcpt.curation.sources import OpenSource, open_sources
from mixcpt.errors import ConfigError


def opened(*paths: Path, pool: Pool = "domain", limit: int = 0, **settings: object) -> OpenSource:
    source = FilesSource(name="s", pool=pool, paths=tuple(map(str, paths)), limit=limit, **settings)  # type: ignore[arg-type]
    domain = () if pool == "domain" else (FilesSource(name="d", pool="domain", paths=tuple(map(str, paths))),)
    return open_sources(CurationConfig(sources=(source, *domain)))[0]


def read(*paths: Path, **settings: object) -> tuple[list[Record], list[Defect]]:
    items = list(opened(*paths, **settings).records())  # type: ignore[arg-type]
    return [item for item in items if isinstance(item, Record)], [item for item in items if isinstance(item, Defect)]


ROWS = [{"id": "a", "title": "First", "text": "One fact.\nAnother."}, {"id": "b", "text": "Zwölf Käse."}]


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    suffixes = path.name.lower().split(".")[1:]
    if suffixes == ["parquet"]:
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    text = json.dumps(rows, indent=2) if "json" in suffixes else "".join(json.dumps(row) + "\n" for row in rows)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if suffixes[-1] == "gz" else data)
    return path


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz", "r.json", "r.json.gz", "r.parquet", "R.JSONL.GZ"])
def test_records_of_each_structured_format_are_read_alike(tmp_path: Path, name: str) -> None:
    records, defects = read(write_rows(tmp_path / name, ROWS))
    assert defects == []
    assert [(record.id, record.text, record.title) for record in records] == [
        ("s/a", "One fact.\nAnother.", "First"),
        ("s/b", "Zwölf Käse.", ""),
    ]


@pytest.mark.parametrize("name", ["notes.txt", "notes.md", "notes.txt.gz", "notes.md.gz"])
def test_text_file_is_one_document_named_after_it(tmp_path: Path, name: str) -> None:
    data = b"\xef\xbb\xbf# Heading\n\nBody."
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    records, defects = read(tmp_path / name, fields=FieldNames(text="content", id="key"))
    assert defects == []
    assert [(record.id, record.title, record.text) for record in records] == [
        (f"s/{name}", name.removesuffix(".gz"), "# Heading\n\nBody.")
    ]


def test_json_file_of_one_object_a_line_is_read_as_lines(tmp_path: Path) -> None:
    records, defects = read(write_jsonl(tmp_path / "lines.json", ROWS))
    assert ([record.id for record in records], defects) == (["s/a", "s/b"], [])


def test_blank_lines_and_byte_order_mark_are_no_records(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n   \n{"text": "two"}')
    records, defects = read(path)
    assert [(record.id, record.text) for record in records] == [("s/r.jsonl:1", "one"), ("s/r.jsonl:4", "two")]
    assert defects == []


BAD_LINES = [
    (b'{"text": "broken', "", "broken JSON"),
    (b'["a", "list"]', "", "holds a list"),
    (b'"just text"', "", "holds a str"),
    (b'{"body": "no such field"}', "text", "is missing; the record has: body"),
    (b"{}", "text", "no field at all"),
    (b'{"text": 5}', "text", "a number where text"),
    (b'{"text": null}', "text", "null where text"),
    (b'{"text": ["a"]}', "text", "a list where text"),
    (b'{"text": true}', "text", "true or false where text"),
    (b'{"text": " \\n "}', "text", "is empty"),
    (b'{"text": "caf\xe9"}', "", "no valid UTF-8 at byte 13"),
    (b'{"text": "half \\ud83d a smiley"}', "text", "half a character, at position 5"),
    (b"[" * 100_000, "", "broken JSON"),
]


@pytest.mark.parametrize(("line", "field", "reason"), BAD_LINES, ids=[reason for _, _, reason in BAD_LINES])
def test_bad_line_is_quarantined_between_good_ones(tmp_path: Path, line: bytes, field: str, reason: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "good before"}\n' + line + b'\n{"text": "good after"}\n')
    records, defects = read(path)
    assert [record.text for record in records] == ["good before", "good after"]
    assert [(defect.file, defect.line, defect.field) for defect in defects] == [("bad.jsonl", 2, field)]
    assert reason in defects[0].reason
    assert len(defects[0].excerpt) <= 2_000
    defects[0].excerpt.encode()


@pytest.mark.parametrize(("name", "whole"), [("cut.jsonl.gz", 200), ("cut.json.gz", 200)])
def test_truncated_gzip_keeps_the_records_before_the_cut(tmp_path: Path, name: str, whole: int) -> None:
    # Hardly compressible, so that a cut in the middle of the bytes falls into the middle of the records.
    rows: list[dict[str, object]] = [
        {"text": f"{index} " + "".join(chr(33 + (index * k * k) % 90) for k in range(400))} for index in range(whole)
    ]
    path = write_rows(tmp_path / name, rows)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    records, defects = read(path)
    assert 10 < len(records) < whole
    assert [record.text for record in records] == [str(row["text"]) for row in rows[: len(records)]]
    assert len(defects) == 1
    assert "truncated" in defects[0].reason
    assert defects[0].line > len(records)


@pytest.mark.parametrize("name", ["not.jsonl.gz", "not.txt.gz", "not.json.gz"])
def test_file_that_is_no_gzip_is_quarantined(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"text": "plain"}\n')
    records, defects = read(tmp_path / name)
    assert records == []
    assert [(defect.file, defect.line) for defect in defects] == [(name, 1)]
    assert "damaged gzip" in defects[0].reason


def test_damaged_parquet_is_quarantined(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    records, defects = read(path)
    assert records == []
    assert [(defect.file, defect.line) for defect in defects] == [("r.parquet", 1)]
    assert "damaged parquet" in defects[0].reason


def test_parquet_without_the_field_names_those_it_has(tmp_path: Path) -> None:
    records, defects = read(write_rows(tmp_path / "r.parquet", [{"body": "x", "number": 3}]))
    assert records == []
    assert (defects[0].line, defects[0].field) == (1, "text")
    assert "body, number" in defects[0].reason


def test_text_file_in_another_encoding_is_quarantined_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("eins\nzwei\nfünf".encode("latin-1"))
    records, defects = read(tmp_path / "latin.txt")
    assert records == []
    assert (defects[0].line, defects[0].reason) == (
        3,
        "is no valid UTF-8 at byte 11; convert the file, e.g. from Latin-1: iconv -f LATIN1 -t UTF-8",
    )


BROKEN_LISTS = [
    ('[\n{"text": "a"},\n{"text": "b"},\n{"text": broken}\n]', ["a", "b"], 4),
    ('[\n{"text": "a"}\n{"text": "b"}]', [], 2),
    ('[{"text": "a"}, 7, {"text": "b"}]', ["a", "b"], 1),
    ('[{"text": "a"}]\n[{"text": "b"}]', ["a"], 1),
    ('[{"text": "a"},\n', ["a"], 2),
    ('{"key": {"text": "a"},\n "other": {"text": "b"}}', [], 1),
]


@pytest.mark.parametrize(("content", "texts", "line"), BROKEN_LISTS)
def test_broken_json_list_keeps_the_members_before_the_break(
    tmp_path: Path, content: str, texts: list[str], line: int
) -> None:
    (tmp_path / "r.json").write_text(content)
    records, defects = read(tmp_path / "r.json")
    assert [record.text for record in records] == texts
    assert [defect.line for defect in defects] == [line]


def test_undecodable_member_of_a_json_list_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b'[{"text": "good"}, {"text": "caf\xe9"}, {"text": "fine"}]')
    records, defects = read(tmp_path / "r.json")
    assert [record.text for record in records] == ["good", "fine"]
    assert [(defect.field, "UTF-8" in defect.reason) for defect in defects] == [("text", True)]


@pytest.mark.parametrize("name", ["e.jsonl", "e.json", "e.jsonl.gz"])
def test_empty_file_has_no_records_and_no_defects(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    assert read(tmp_path / name) == ([], [])


def test_limit_counts_good_and_bad_records(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"text": "a"}\nbroken\n{"text": "b"}\n{"text": "c"}\n')
    records, defects = read(path, limit=3)
    assert ([record.text for record in records], len(defects)) == (["a", "b"], 1)


def test_records_without_or_with_repeated_id_get_names_of_their_own(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": 7, "text": "a"},
        {"id": 7, "text": "b"},
        {"id": "7#2", "text": "c"},
        {"id": "", "text": "d"},
        {"id": ["x"], "text": "e"},
        {"id": 7, "text": "f"},
    ]
    records, _ = read(write_jsonl(tmp_path / "r.jsonl", rows))
    assert [record.id for record in records] == ["s/7", "s/7#2", "s/7#2#2", "s/r.jsonl:4", "s/r.jsonl:5", "s/7#3"]


def test_folder_is_searched_through_in_order_and_unknown_files_are_listed(tmp_path: Path) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    for name in ["b/two.md", "b/deep/one.txt", "a.jsonl", ".hidden.txt", ".git/config.txt", "b/image.png"]:
        (tmp_path / name).write_text('{"text": "x"}' if name == "a.jsonl" else name)
    source = opened(tmp_path)
    records = [item for item in source.records() if isinstance(item, Record)]
    assert [record.id for record in records] == ["s/a.jsonl:1", "s/b/deep/one.txt", "s/b/two.md"]
    assert source.ignored == ("image.png",)


def test_folder_of_instructions_leaves_plain_documents_out(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("About the data.")
    write_jsonl(tmp_path / "r.jsonl", [{"prompt": "Ask", "response": "Answer"}])
    records, defects = read(tmp_path, pool="instructions")
    assert ([record.texts for record in records], defects) == ([("Ask", "Answer")], [])


def test_globs_and_overlapping_paths_give_each_file_once(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_jsonl(tmp_path / folder / "part.jsonl", [{"text": folder}])
    source = FilesSource(
        name="s", pool="domain", paths=(str(tmp_path / "*" / "*.jsonl"), str(tmp_path / "y" / "part.jsonl"))
    )
    search = find_files(source, "key")
    assert search.files == [tmp_path / "x" / "part.jsonl", tmp_path / "y" / "part.jsonl"]
    assert search.names() == ["x/part.jsonl", "y/part.jsonl"]


@pytest.mark.parametrize(
    ("path", "pool", "message"),
    [
        ("missing.jsonl", "domain", "there is no file"),
        ("*.parquet", "domain", "no file matches"),
        ("table.csv", "domain", "unknown suffix"),
        ("table.parquet.gz", "domain", "unknown suffix"),
        ("empty", "domain", "holds no file of a known kind"),
        ("note.txt", "instructions", "one document without fields"),
    ],
)
def test_unusable_path_is_refused_by_key_and_path_before_reading(
    tmp_path: Path, path: str, pool: Pool, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("table.csv", "table.parquet.gz", "note.txt"):
        (tmp_path / name).write_text("x")
    good = write_jsonl(tmp_path / "good.jsonl", [{"text": "good"}])
    sources = (
        FilesSource(name="good", pool="domain", paths=(str(good),)),
        FilesSource(name="bad", pool=pool, paths=(str(good), str(tmp_path / path))),
    )
    with pytest.raises(ConfigError, match=message) as caught:
        open_sources(CurationConfig(sources=sources))
    assert "curation.sources[1].paths[1]" in caught.value.problem
    assert str(tmp_path / path) in caught.value.problem


def test_empty_path_is_refused_not_read_as_the_current_folder() -> None:
    with pytest.raises(ConfigError, match=r"sources\[0\].paths\[0\]: there is no file ''"):
        open_sources(CurationConfig(sources=(FilesSource(name="s", pool="domain", paths=("",)),)))
