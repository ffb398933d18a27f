"""Count the records of a curation (read = quarantined + removed + held out + kept) and write them to files."""

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from mixcpt.config import Pool
from mixcpt.curation.corpus_report import (
    FILE,
    HELDOUT_INSTRUCTIONS,
    CorpusReport,
    PoolReport,
    RemovedRecords,
    SourceReport,
)
from mixcpt.curation.records import DOCUMENT_POOLS, TEXT_NAMES, Defect, Record, printable
from mixcpt.curation.sources import OpenSource
from mixcpt.curation.steps import Removal

_TABLES: dict[Pool, str] = {"instructions": "instructions.parquet", "preferences": "preferences.parquet"}
_DOCUMENT_COLUMNS = ("doc_id", "source", "pool", "title", "text")
_REMOVED_COLUMNS = ("pool", "source", "id", "step", "reason", "text")
_QUARANTINE_COLUMNS = ("source", "file", "line", "field", "reason", "raw")
_NUM_KINDS = 5
"""Number of kinds of unknown files that are named."""
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class SourceLine:
    """Line about the curation of one source."""

    text: str
    is_loss: bool
    """Whether records could not be used."""


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

    def report(self) -> CorpusReport:
        """Return the counts by pool, by source, and by reason of removal."""
        kept, num_bytes = _count((record.pool, record) for record in self.kept)
        heldout = Counter(record.pool for record in self.heldout)
        removed, removed_bytes = _count((removal.group, removal.verdict.record) for removal in self.removed)
        return CorpusReport(
            pools={
                pool: PoolReport(records=kept[pool], bytes=num_bytes[pool], heldout=heldout[pool])
                for pool in TEXT_NAMES
            },
            sources=self._source_reports(),
            removed=tuple(
                RemovedRecords(*group, records=records, bytes=removed_bytes[group])
                for group, records in removed.items()
            ),
        )

    def write(self, folder: Path) -> CorpusReport:
        """Write the report and the tables into `folder`, and return the report."""
        for pool, file in _TABLES.items():
            names = ("id", "source", *TEXT_NAMES[pool])
            rows = ((record.id, record.source, *record.texts) for record in self.kept if record.pool == pool)
            _write_table(folder / file, names, rows)
        if samples := [record for record in self.heldout if record.pool == "instructions"]:
            names = ("id", "source", *TEXT_NAMES["instructions"])
            _write_table(folder / HELDOUT_INSTRUCTIONS, names, ((r.id, r.source, *r.texts) for r in samples))
        for file, records in (("documents.parquet", self.kept), ("heldout.parquet", self.heldout)):
            documents = [record for record in records if record.pool in DOCUMENT_POOLS]
            rows = ((record.id, record.source, record.pool, record.title, record.text) for record in documents)
            _write_table(folder / file, _DOCUMENT_COLUMNS, rows)
        _write_table(folder / "removed.parquet", _REMOVED_COLUMNS, self._removed_rows())
        _write_table(folder / "quarantine.parquet", _QUARANTINE_COLUMNS, self._quarantine_rows())
        report = self.report()
        (folder / FILE).write_text(json.dumps(asdict(report), indent=2), encoding="utf-8")
        return report

    def lines(self, folder: Path) -> list[SourceLine]:
        """Return one line per source with its counts and the first reason of a loss; `folder` has the whole lists."""
        return [
            SourceLine(text=self._counts(source, report, folder), is_loss=bool(report.quarantined or not report.kept))
            for source, report in zip(self.sources, self._source_reports().values(), strict=True)
        ]

    def _counts(self, source: OpenSource, report: SourceReport, folder: Path) -> str:
        name = source.config.name
        parts = [f"{name}: {report.read} records read", f"{report.kept} kept"]
        if report.heldout:
            parts.append(f"{report.heldout} held out for measuring")
        if report.quarantined:
            first = next(defect for defect_source, defect in self.quarantined if defect_source == name)
            parts.append(
                f"{report.quarantined} unusable, listed in {folder / 'quarantine.parquet'}; the first: {first}"
            )
        if report.removed:
            of_source = (removal for removal in self.removed if removal.verdict.record.source == name)
            parts.append(
                f"{report.removed} removed, listed in {folder / 'removed.parquet'}; the first: {next(of_source)}"
            )
        if source.ignored:
            kinds = Counter(Path(file).suffix.lower() or "no suffix" for file in source.ignored)
            counts = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(_NUM_KINDS))
            parts.append(f"{len(source.ignored)} files of unknown kinds left out ({counts})")
        return "; ".join(parts)

    def _source_reports(self) -> dict[str, SourceReport]:
        kept, num_bytes = _count((record.source, record) for record in self.kept)
        heldout = Counter(record.source for record in self.heldout)
        removed = Counter(removal.verdict.record.source for removal in self.removed)
        quarantined = Counter(source for source, _ in self.quarantined)
        return {
            (name := source.config.name): SourceReport(
                pool=source.config.pool,
                read=self.num_read[name],
                quarantined=quarantined[name],
                removed=removed[name],
                heldout=heldout[name],
                kept=kept[name],
                bytes=num_bytes[name],
                files=source.contents,
            )
            for source in self.sources
        }

    def _removed_rows(self) -> Iterable[tuple[str, ...]]:
        for removal in self.removed:
            record = removal.verdict.record
            reason = f"{removal.verdict.reason} {removal.verdict.subject}".strip()
            yield record.pool, record.source, record.id, removal.step, reason, record.text

    def _quarantine_rows(self) -> Iterable[tuple[str | int, ...]]:
        for source, defect in self.quarantined:
            yield source, defect.file, defect.line, defect.field, printable(defect.reason), defect.excerpt


def _count(records: Iterable[tuple[Key, Record]]) -> tuple[Counter[Key], Counter[Key]]:
    """Return the number of records and their bytes, by key."""
    numbers: Counter[Key] = Counter()
    sizes: Counter[Key] = Counter()
    for key, record in records:
        numbers[key] += 1
        sizes[key] += record.num_bytes
    return numbers, sizes


def _write_table(path: Path, names: tuple[str, ...], rows: Iterable[tuple[str | int, ...]]) -> None:
    schema = pa.schema([(name, pa.int64() if name == "line" else pa.large_string()) for name in names])
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd")
