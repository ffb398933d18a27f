"""Damaged files of documents, instructions, preferences and questions for bad_inputs.py."""

import csv
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bad_input_damage import WORDS, Loss, Result, damage, json_lines, odd_record, sentence
from mixcpt.config import CurationConfig, FilesSource, MultipleChoiceTask
from mixcpt.curation.pipeline import clean
from mixcpt.curation.report import Corpus
from mixcpt.curation.sources import open_sources
from mixcpt.evaluate.asking.files import read_file


def _write_records(folder: Path, records: list[dict[str, Any]], rng: random.Random) -> tuple[Path, int]:
    """Write records to a file of a random kind, damaged or with odd records; return it and its number of lines or 0."""
    odd = [odd_record(record, rng) if rng.random() < 0.3 else record for record in records]
    kind = rng.choice(("jsonl", "jsonl", "jsonl", "jsonl.gz", "parquet", "txt", "md", "json"))
    path = folder / f"records.{kind}"
    if kind == "parquet":
        columns = [{str(k): json.dumps(v) if k == "odd" else v for k, v in record.items()} for record in records]
        column = rng.choice((None, b"bytes", 3, ["list"], {"struct": 1}))
        table = pa.Table.from_pylist(columns)
        table = table.append_column("added", pa.array([column] * table.num_rows))
        pq.write_table(table.rename_columns([rng.choice((name, "other")) for name in table.column_names]), path)
        if rng.random() < 0.6:
            path.write_bytes(damage(path.read_bytes(), rng))
        return path, 0
    content = json_lines(odd)
    is_damaged = rng.random() < 0.5
    if kind.endswith(".gz"):
        content = gzip.compress(content)
    content = damage(content, rng) if is_damaged else content
    path.write_bytes(content)
    return path, len(odd) if kind == "jsonl" and not is_damaged else 0


def _record(pool: str, number: int, rng: random.Random) -> dict[str, Any]:
    texts = {
        "domain": ("text",),
        "general": ("text",),
        "instructions": ("prompt", "response"),
        "preferences": ("prompt", "chosen", "rejected"),
    }
    return {"id": f"record-{number}", **{name: f"{sentence(rng)} Number {number}." for name in texts[pool]}}


def sources(folder: Path, rng: random.Random) -> Result:
    """Curate a damaged file of documents, instructions or preferences; every record must be counted."""
    pool = rng.choice(("domain", "general", "instructions", "preferences"))
    records = [_record(pool, number, rng) for number in range(12)]
    path, num_lines = _write_records(folder, records, rng)
    documents = folder / "documents.jsonl"
    documents.write_bytes(json_lines([_record("domain", number, rng) for number in range(12)]))
    whole = FilesSource(name="whole", pool="domain", paths=(str(documents),))
    source = FilesSource(name="records", pool=pool, paths=(str(path),))
    config = CurationConfig(sources=(whole, source), heldout_fraction=0.2)
    corpus = clean(config, open_sources(config), seed=0)
    corpus.write(folder)
    require_counted(corpus, num_lines)
    rejected = [*(str(defect) for _, defect in corpus.quarantined), *map(str, corpus.removed)]
    return ("set aside", rejected[0]) if rejected else ("used", "")


def require_counted(corpus: Corpus, num_lines: int) -> None:
    sizes = [len(corpus.kept), len(corpus.heldout), len(corpus.removed), len(corpus.quarantined)]
    if sum(corpus.num_read.values()) > sum(sizes):
        raise Loss(f"{corpus.num_read} records read; kept, held out, removed and set aside: {sizes}")
    if corpus.num_read["records"] < num_lines:
        raise Loss(f"{num_lines} lines in the file, {corpus.num_read} records read")


def questions(folder: Path, rng: random.Random) -> Result:
    """Read a damaged file of multiple-choice questions; every line is an item or is set aside."""
    letters = "ABCD"
    form = rng.choice(("list", "labelled", "columns"))
    records: list[dict[str, Any]] = []
    for number in range(10):
        options = [f"{word} {number}" for word in rng.sample(WORDS, 4)]
        key = rng.randrange(4)
        answer = rng.choice((letters[key], options[key], key)) if form == "list" else letters[key]
        choices = {"list": options, "labelled": dict(zip(letters, options, strict=True))}.get(form)
        fields = {"choices": choices} if choices else dict(zip(letters, options, strict=True))
        records.append({"question": f"{sentence(rng)}?", **fields, "answer": answer})
    odd = [odd_record(record, rng) if rng.random() < 0.4 else record for record in records]
    kind = rng.choice(("jsonl", "json", "csv", "tsv"))
    path = folder / f"questions.{kind}"
    content = json_lines(odd)
    if kind == "json":
        content = json.dumps(rng.choice((odd, {"data": odd}, odd[0]))).encode()
    elif kind in ("csv", "tsv"):
        content = _delimited([record for record in odd if isinstance(record, dict)], "," if kind == "csv" else "\t")
    is_damaged = rng.random() < 0.4
    path.write_bytes(damage(content, rng) if is_damaged else content)
    items, rejected = read_file(MultipleChoiceTask(name="asked", group="domain", path=str(path)), path)
    if kind == "jsonl" and not is_damaged and len(items) + len(rejected) < len(odd):
        raise Loss(f"{len(odd)} lines, {len(items)} items and {len(rejected)} set aside")
    if any(item.gold not in item.choices or not item.gold.strip() for item in items):
        raise Loss("a right answer is empty or none of the choices")
    return ("set aside", str(rejected[0])) if rejected else ("used", "")


def _delimited(records: list[dict[str, Any]], delimiter: str) -> bytes:
    columns = list(dict.fromkeys(str(name) for record in records for name in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter=delimiter, escapechar="\\")
    writer.writeheader()
    for record in records:
        writer.writerow({str(name): str(value).replace("\x00", "") for name, value in record.items()})
    return text.getvalue().encode("utf-8", "replace")
