"""Samples of the sources, cleaned as in curation, with the estimated size of the whole source."""

import math
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

from pyarrow import dataset

from mixcpt.config import CurationConfig, Pool
from mixcpt.curation.corpus_report import CorpusReport
from mixcpt.curation.records import TEXT_NAMES, Defect, Record
from mixcpt.curation.sources import OpenSource, open_sources
from mixcpt.curation.steps import MIN_SAMPLES, MinLength, Normalise, Step, run_steps
from mixcpt.store.artifacts import ArtifactRef

NUM_RECORDS = 600
"""Maximum number of records in the sample of a source."""
_MAX_READ_BYTES = 256 * 2**20
"""Maximum text read from a source of uncompressed files, in bytes; the rest is assumed to be similar."""
_MAX_READ_RECORDS = 20_000
"""Maximum number of records read from a source of a corpus, whose size is known."""
_COMPRESSED = (".gz", ".parquet")
_FILES: dict[Pool, str] = {
    "domain": "documents.parquet",
    "general": "documents.parquet",
    "instructions": "instructions.parquet",
    "preferences": "preferences.parquet",
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Records of one source that training may read, and the size of the source."""

    name: str
    pool: Pool
    records: tuple[Record, ...]
    num_records: int
    """Number of all records of the source, without held-out ones."""
    num_bytes: int
    """Text of all these records in bytes."""
    num_heldout: int
    """Number of documents held out for measuring."""
    read_seconds: float
    """Processor time to read and clean the whole source; 0 if curation has done so."""

    @property
    def is_whole(self) -> bool:
        return len(self.records) == self.num_records

    @property
    def scale(self) -> float:
        """Ratio of the text of the source to that of the sample."""
        sample_bytes = sum(record.num_bytes for record in self.records)
        return self.num_bytes / sample_bytes if sample_bytes else 0.0


def sample_sources(config: CurationConfig) -> list[Sample]:
    """Return a random sample per source.

    Duplicates are not removed, and only the fraction of held-out documents is known, so figures that depend on them are
    estimates until the corpus is published.
    """
    return [_sample(config, source) for source in open_sources(config)]


def sample_corpus(corpus: ArtifactRef) -> list[Sample]:
    """Return a sample per source of a published corpus; the sizes of the sources are exact."""
    return [
        Sample(
            name=name,
            pool=source.pool,
            records=_draw(_stored_records(corpus, name, source.pool)),
            num_records=source.kept,
            num_bytes=source.bytes,
            num_heldout=source.heldout,
            read_seconds=0.0,
        )
        for name, source in CorpusReport.of(corpus).sources.items()
    ]


def _sample(config: CurationConfig, source: OpenSource) -> Sample:
    started = time.process_time()
    records: list[Record] = []
    num_usable, num_bytes = 0, 0
    rng = random.Random(source.config.name)
    is_compressed = any(content.name.endswith(_COMPRESSED) for content in source.contents)
    max_bytes = math.inf if is_compressed else _MAX_READ_BYTES
    for record in source.records():
        if isinstance(record, Defect):
            continue
        num_usable, num_bytes = num_usable + 1, num_bytes + record.num_bytes
        _update_reservoir(records, record, num_usable, rng)
        if num_bytes > max_bytes:
            break
    file_bytes = sum(content.bytes for content in source.contents)
    unread_scale = max(1.0, file_bytes / num_bytes) if num_bytes > max_bytes else 1.0
    cleaning: list[Step] = [*([Normalise()] if config.normalise else []), MinLength(config.min_characters)]
    clean = tuple(run_steps(records, cleaning, lambda removal: None))
    read_seconds = (time.process_time() - started) * unread_scale
    is_document = source.config.pool in ("domain", "general")
    heldout_fraction = config.heldout_fraction if is_document else 0.0
    scale = len(clean) / max(len(records), 1) * unread_scale
    num_records = round(num_usable * scale)
    num_heldout = round(num_records * heldout_fraction)
    if source.config.pool == "instructions":
        num_heldout = min(config.heldout_instructions, num_records // MIN_SAMPLES)
        heldout_fraction = num_heldout / max(num_records, 1)
    return Sample(
        name=source.config.name,
        pool=source.config.pool,
        records=clean,
        num_records=num_records - num_heldout,
        num_bytes=round(num_bytes * scale * (1 - heldout_fraction)),
        num_heldout=num_heldout,
        read_seconds=read_seconds,
    )


def _draw(records: Iterable[Record]) -> tuple[Record, ...]:
    reservoir: list[Record] = []
    rng = random.Random(0)
    for count, record in enumerate(records, start=1):
        _update_reservoir(reservoir, record, count, rng)
    return tuple(reservoir)


def _update_reservoir(reservoir: list[Record], record: Record, count: int, rng: random.Random) -> None:
    """Keep or drop the record, so that each of `count` records is in the reservoir with equal probability."""
    if len(reservoir) < NUM_RECORDS:
        reservoir.append(record)
    elif (place := rng.randrange(count)) < NUM_RECORDS:
        reservoir[place] = record


def _stored_records(corpus: ArtifactRef, source: str, pool: Pool) -> Iterator[Record]:
    names = TEXT_NAMES[pool]
    key = "doc_id" if pool in ("domain", "general") else "id"
    table = dataset.dataset(corpus.file(_FILES[pool]))
    batches = table.to_batches(columns=[key, *names], filter=dataset.field("source") == source)
    rows = chain.from_iterable(batch.to_pylist() for batch in batches)
    for row in islice(rows, _MAX_READ_RECORDS):
        yield Record(id=row[key], source=source, pool=pool, texts=tuple(row[name] for name in names))
