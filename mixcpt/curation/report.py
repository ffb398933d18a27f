"""Count the records of a curation (read = quarantined + removed + held out + kept) and write them to files."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mixcpt.config import Pool
from mixcpt.curation.records import DOCUMENT_POOLS, TEXT_NAMES, Defect, Record, printable
from mixcpt.curation.sources import OpenSource
from mixcpt.curation.steps import Removal

_TABLES: dict[Pool, str] = {"instructions": "instructions.parquet", "preferences": "preferences.parquet"}
_REMOVED_COLUMNS = ("pool", "source", "id", "step", "reason", "text")
_QUARANTINE_COLUMNS = ("source", "file", "line", "field", "reason", "raw")
_NOTHING = {"records": 0, "bytes": 0}


@dataclass(kw_only=True)
class Corpus:
    """The result of a curation."""

    sources: Sequence[OpenSource]
    num_read: Counter[str] = field(default_factory=Counter)
    """Number of records read, by source."""
    quarantined: list[tuple[str, Defect]] = field(default_factory=list)
    """Unusable records: source and defect."""
    removed: list[Removal] = field(default_factory=list)
    heldout: list[Record] = field(default_factory=list)
    kept: list[Record] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Return the counts as JSON values: by pool, by source, and by reason of removal."""
        kept, heldout = _tally(self.kept, by="pool"), _tally(self.heldout, by="pool")
        pools = {
            pool: {**kept.get(pool, _NOTHING), "heldout": heldout.get(pool, _NOTHING)["records"]} for pool in TEXT_NAMES
        }
        return {"pools": pools, "sources": self._source_reports(), "removed": self._removals()}

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the report and the six tables into `folder`, and return the report."""
        for pool, file in _TABLES.items():
            names = ("id", "source", *TEXT_NAMES[pool])
            rows = ((record.id, record.source, *record.texts) for record in self.kept if record.pool == pool)
            _write_table(folder / file, names, rows)
        _write_documents(folder / "documents.parquet", self.kept)
        _write_documents(folder / "heldout.parquet", self.heldout)
        _write_table(folder / "removed.parquet", _REMOVED_COLUMNS, self._removed_rows())
        _write_table(folder / "quarantine.parquet", _QUARANTINE_COLUMNS, self._quarantine_rows())
        report = self.report()
        (folder / "report.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
        return report

    def _source_reports(self) -> dict[str, dict[str, Any]]:
        kept, heldout = _tally(self.kept, by="source"), _tally(self.heldout, by="source")
        removed = Counter(removal.verdict.record.source for removal in self.removed)
        quarantined = Counter(source for source, _ in self.quarantined)
        return {
            (name := source.config.name): {
                "pool": source.config.pool,
                "read": self.num_read[name],
                "quarantined": quarantined[name],
                "removed": removed[name],
                "heldout": heldout.get(name, _NOTHING)["records"],
                "kept": kept.get(name, _NOTHING)["records"],
                "bytes": kept.get(name, _NOTHING)["bytes"],
                "files": [content.to_json() for content in source.contents],
            }
            for source in self.sources
        }

    def _removals(self) -> list[dict[str, Any]]:
        records: Counter[tuple[str, str, str]] = Counter()
        sizes: Counter[tuple[str, str, str]] = Counter()
        for removal in self.removed:
            group = (removal.step, removal.verdict.reason, removal.verdict.record.source)
            records[group] += 1
            sizes[group] += removal.verdict.record.num_bytes
        return [
            {"step": step, "reason": reason, "source": source, "records": count, "bytes": sizes[step, reason, source]}
            for (step, reason, source), count in records.items()
        ]

    def _removed_rows(self) -> Iterable[tuple[str, ...]]:
        for removal in self.removed:
            record = removal.verdict.record
            reason = f"{removal.verdict.reason} {removal.verdict.subject}".strip()
            yield record.pool, record.source, record.id, removal.step, reason, record.text

    def _quarantine_rows(self) -> Iterable[tuple[str | int, ...]]:
        for source, defect in self.quarantined:
            yield source, defect.file, defect.line, defect.field, printable(defect.reason), defect.excerpt


def _tally(records: Iterable[Record], *, by: Literal["pool", "source"]) -> dict[str, dict[str, int]]:
    """Return the number of records and their bytes, by pool or by source."""
    tally: dict[str, dict[str, int]] = {}
    for record in records:
        entry = tally.setdefault(record.pool if by == "pool" else record.source, dict(_NOTHING))
        entry["records"] += 1
        entry["bytes"] += record.num_bytes
    return tally


def _write_documents(path: Path, records: Iterable[Record]) -> None:
    rows = (
        (record.id, record.source, record.pool, record.title, record.text)
        for record in records
        if record.pool in DOCUMENT_POOLS
    )
    _write_table(path, ("doc_id", "source", "pool", "title", "text"), rows)


def _write_table(path: Path, names: tuple[str, ...], rows: Iterable[tuple[str | int, ...]]) -> None:
    schema = pa.schema([(name, pa.int64() if name == "line" else pa.large_string()) for name in names])
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd")
