"""A few records of each source, cleaned as curation would, and how much more there is of it."""

import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from pyarrow import dataset

from mixcpt.config import CurationConfig, Pool
from mixcpt.curation.records import TEXT_NAMES, Defect, Record
from mixcpt.curation.sources import OpenSource
from mixcpt.curation.steps import MinLength, Normalise, Step, run_steps
from mixcpt.store.artifacts import ArtifactRef

NUM_RECORDS = 600
"""Of each source, at most."""
_MAX_READ_BYTES = 256 * 2**20
"""Of the text of each source whose files are not compressed; what is beyond is taken to be like what was read."""
_MAX_READ_RECORDS = 20_000
"""Of each source of a corpus: how much there is of it is known."""
_COMPRESSED = (".gz", ".parquet")
_FILES: dict[Pool, str] = {
    "domain": "documents.parquet",
    "general": "documents.parquet",
    "instructions": "instructions.parquet",
    "preferences": "preferences.parquet",
}


@dataclass(frozen=True)
class Sample:
    """Records of one source that training may read."""

    name: str
    pool: Pool
    records: tuple[Record, ...]
    num_records: int
    """How many there are of them, held-out ones left out."""
    num_bytes: int
    """Of the text of all of them."""
    num_heldout: int
    """Documents that are set aside for measuring."""
    read_seconds: float
    """Of a processor, for reading and cleaning all of the source."""

    @property
    def is_whole(self) -> bool:
        return len(self.records) == self.num_records

    @property
    def scale(self) -> float:
        """How much more text there is than in the sample."""
        own = sum(record.num_bytes for record in self.records)
        return self.num_bytes / own if own else 0.0


def sample_sources(config: CurationConfig, sources: Sequence[OpenSource]) -> list[Sample]:
    """Returns a sample of each source, drawn evenly from all that is read of it.

    Duplicates are not looked for, and of held-out documents the share alone is known: figures that depend on them are
    estimates until the corpus is there.
    """
    return [_sample(config, source) for source in sources]


def sample_corpus(corpus: ArtifactRef) -> list[Sample]:
    """Returns a sample of each source from a corpus that curation has published: sizes and shares are exact."""
    books = corpus.record["metrics"]["sources"]
    return [
        Sample(name, of["pool"], _draw(_stored(corpus, name, of["pool"])), of["kept"], of["bytes"], of["heldout"], 0.0)
        for name, of in books.items()
    ]


def _sample(config: CurationConfig, source: OpenSource) -> Sample:
    started = time.process_time()
    records: list[Record] = []
    num_usable, num_bytes = 0, 0
    chance = random.Random(source.config.name)
    limit = math.inf if any(each.name.endswith(_COMPRESSED) for each in source.contents) else _MAX_READ_BYTES
    for record in source.records():
        if isinstance(record, Defect):
            continue
        num_usable, num_bytes = num_usable + 1, num_bytes + record.num_bytes
        _put(records, record, num_usable, chance)
        if num_bytes > limit:
            break
    more = max(1.0, sum(content.bytes for content in source.contents) / num_bytes) if num_bytes > limit else 1.0
    cleaning: list[Step] = [*([Normalise()] if config.normalise else []), MinLength(config.min_characters)]
    clean = tuple(run_steps(records, cleaning, lambda removal: None))
    seconds = (time.process_time() - started) * more
    is_document = source.config.pool in ("domain", "general")
    heldout = config.heldout_fraction if is_document else 0.0
    kept = len(clean) / max(len(records), 1) * more
    count = round(num_usable * kept)
    num_heldout = round(count * heldout)
    size = round(num_bytes * kept * (1 - heldout))
    return Sample(source.config.name, source.config.pool, clean, count - num_heldout, size, num_heldout, seconds)


def _draw(records: Iterable[Record]) -> tuple[Record, ...]:
    drawn: list[Record] = []
    chance = random.Random(0)
    for count, record in enumerate(records, start=1):
        _put(drawn, record, count, chance)
    return tuple(drawn)


def _put(drawn: list[Record], record: Record, count: int, chance: random.Random) -> None:
    """Keeps or drops the record so that each of `count` records is among those drawn with equal chance (reservoir)."""
    if len(drawn) < NUM_RECORDS:
        drawn.append(record)
    elif (place := chance.randrange(count)) < NUM_RECORDS:
        drawn[place] = record


def _stored(corpus: ArtifactRef, source: str, pool: Pool) -> Iterable[Record]:
    names = TEXT_NAMES[pool]
    key = "doc_id" if pool in ("domain", "general") else "id"
    of_source = dataset.dataset(corpus.file(_FILES[pool]))
    batches = of_source.to_batches(columns=[key, *names], filter=dataset.field("source") == source)
    rows = (row for batch in batches for row in batch.to_pylist())
    for row in islice(rows, _MAX_READ_RECORDS):
        yield Record(row[key], source, pool, tuple(row[name] for name in names))
