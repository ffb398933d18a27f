"""Read a sample of every source, cleaned as in curation, for checks before any work; takes seconds for any size."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from mixcpt import closed_world
from mixcpt.config import CurationConfig, FilesSource, HuggingFaceSource, Source
from mixcpt.curation.files import find_files
from mixcpt.curation.parsing import RecordParser
from mixcpt.curation.readers import DOCUMENT_SUFFIXES, Item, read_file, reader_kind
from mixcpt.curation.records import Defect, RawRecord, Record
from mixcpt.curation.sources import load_huggingface
from mixcpt.curation.steps import MinLength, Normalise, Removal, Step, run_steps
from mixcpt.errors import ConfigError

NUM_RECORDS = 200
"""Number of records per source and kind of file."""
_MAX_FILES = 40
"""Maximum number of files per kind of records; each gives some of its first records."""
_MAX_WHOLE_BYTES = 256 * 2**20
"""Size of a file above which it is not sampled if it can only be read as a whole."""
_MAX_CHARACTERS = 4_000_000
"""Number of characters of a source and kind of file after which no further record is read."""
_MAX_TEXT_CHARACTERS = 100_000
"""Number of characters of a text that are cleaned and checked; the rest is assumed to be similar."""
_READ_AS_A_WHOLE = (".json", *DOCUMENT_SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class SourceSample:
    """Some of the records of a source."""

    source: Source
    key: str
    """Place of the source in the settings."""
    records: tuple[Record, ...] = ()
    """Usable records after cleaning."""
    defects: tuple[Defect, ...] = ()
    removed: tuple[Removal, ...] = ()
    unparsed: tuple[RawRecord, ...] = ()
    """Records whose fields are unusable; `defects` has the reasons."""
    ignored: tuple[Path, ...] = ()
    """Files in the folders of the source that have no known kind."""
    problem: str = ""
    """Reason why the source cannot be read at all."""
    is_known: bool = True
    """Whether the sample says anything; False for a source that only a download or a long reading would show."""

    @property
    def num_read(self) -> int:
        return len(self.records) + len(self.defects) + len(self.removed)


def sample_sources(config: CurationConfig) -> list[SourceSample]:
    """Return a sample per source; a source that cannot be read has a problem instead of records."""
    return [_sample(config, source, f"curation.sources[{index}]") for index, source in enumerate(config.sources)]


def _sample(config: CurationConfig, source: Source, key: str) -> SourceSample:
    empty = SourceSample(source=source, key=key, is_known=False)
    try:
        if isinstance(source, FilesSource):
            return _sample_files(config, source, empty)
        if isinstance(source, HuggingFaceSource):
            return _sample_dataset(config, source, empty)
        rows: Iterator[Mapping[str, object]] = closed_world.records(source)
        return _cleaned(config, _raw_records(rows, f"closed-world-{source.seed}"), empty)
    except ConfigError as error:
        return replace(empty, problem=error.problem)
    except OSError as error:
        return replace(empty, problem=f"{key}: {error.filename or source.name} cannot be read: {error.strerror}")


def _sample_files(config: CurationConfig, source: FilesSource, empty: SourceSample) -> SourceSample:
    search = find_files(source, empty.key)
    if search.problems:  # `check_sources` lists them
        return empty
    readable = [
        (path, name)
        for path, name in zip(search.files, search.names(), strict=True)
        if reader_kind(path) not in _READ_AS_A_WHOLE or path.stat().st_size <= _MAX_WHOLE_BYTES
    ]
    items = chain.from_iterable(
        _items(readable, kind, source) for kind in sorted({reader_kind(p) for p, _ in readable})
    )
    sample = _cleaned(config, items, empty)
    return replace(sample, ignored=tuple(search.ignored), is_known=len(readable) == len(search.files) or bool(readable))


def _items(files: Sequence[tuple[Path, str]], kind: str, source: FilesSource) -> Iterator[Item]:
    """Yield records of the files of one kind: the first ones of some files."""
    same = [(path, name) for path, name in files if reader_kind(path) == kind]
    if source.limit:
        chosen, per_file = same, min(NUM_RECORDS, source.limit)
    else:
        max_files = NUM_RECORDS if kind in DOCUMENT_SUFFIXES else _MAX_FILES
        chosen = same[:: -(-len(same) // max_files)]
        per_file = -(-NUM_RECORDS // len(chosen))
    each = (islice(read_file(path, name, source), per_file) for path, name in chosen)
    yield from _bounded(islice(chain.from_iterable(each), source.limit or NUM_RECORDS))


def _bounded(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items until their texts have more than `_MAX_CHARACTERS`."""
    num_characters = 0
    for item in items:
        yield item
        values = item.values.values() if isinstance(item, RawRecord) else [item.raw]
        num_characters += sum(len(value) for value in values if isinstance(value, str))
        if num_characters > _MAX_CHARACTERS:
            return


def _sample_dataset(config: CurationConfig, source: HuggingFaceSource, empty: SourceSample) -> SourceSample:
    """Return a sample of a dataset in a local folder; one on the hub would have to be downloaded."""
    folder = Path(source.path).expanduser()
    if not folder.is_dir():
        return empty
    dataset = load_huggingface(source, empty.key, streaming=True)
    rows = islice(iter(dataset), min(NUM_RECORDS, source.limit or NUM_RECORDS))
    return _cleaned(config, _raw_records(rows, folder.name), empty)


def _raw_records(rows: Iterable[Mapping[str, object]], name: str) -> Iterator[RawRecord]:
    numbered = enumerate(islice(rows, NUM_RECORDS), start=1)
    return (RawRecord(name, number, row) for number, row in numbered)


def _cleaned(config: CurationConfig, items: Iterable[Item], empty: SourceSample) -> SourceSample:
    parse = RecordParser(empty.source)
    parsed: list[Record] = []
    defects: list[Defect] = []
    unparsed: list[RawRecord] = []
    removed: list[Removal] = []
    for item in items:
        record = parse(item) if isinstance(item, RawRecord) else item
        if isinstance(record, Record):
            parsed.append(replace(record, texts=tuple(text[:_MAX_TEXT_CHARACTERS] for text in record.texts)))
            continue
        defects.append(record)
        if isinstance(item, RawRecord):
            unparsed.append(item)
    cleaning: list[Step] = [*([Normalise()] if config.normalise else []), MinLength(config.min_characters)]
    kept = tuple(run_steps(parsed, cleaning, removed.append))
    return replace(
        empty,
        records=kept,
        defects=tuple(defects),
        unparsed=tuple(unparsed),
        removed=tuple(removed),
        is_known=True,
    )
