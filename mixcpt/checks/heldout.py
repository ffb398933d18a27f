"""Held-out passages of a small pool: their number, and settings that hold out enough of them for an interval."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from mixcpt.config import CurationConfig, FilesSource, Pool
from mixcpt.curation.files import FileSearch, find_files
from mixcpt.curation.parsing import RecordParser
from mixcpt.curation.passages import cut, hold_out
from mixcpt.curation.readers import read_file
from mixcpt.curation.records import RawRecord, Record
from mixcpt.curation.steps import MinLength, Normalise, Step, content_key, run_steps
from mixcpt.evaluate.guessing import MIN_PASSAGES

MAX_DOCUMENTS = 200
"""Number of documents above which the default share holds out enough of them."""
_MAX_BYTES = 64 * 2**20
"""Size of the files of a pool above which they are not read before the run."""
_MAX_REPAIRED = 4_000_000
"""Characters of a pool above which its text is not repaired before the run."""
_FRACTIONS = tuple(percent / 100 for percent in range(5, 21))
"""Shares to choose from; the first is the default, the last the largest that a run can spare."""
_FORMS = ((0, 1), (1_000, 3), (500, 3), (200, 3), (1_000, 1), (500, 1), (200, 1))
"""Minimum length of passages (0: whole documents) and number of documents, from the best to the worst evidence."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Settings of held-out text, and the number of its documents and passages."""

    fraction: float
    passage_characters: int = 0
    """Minimum length of the passages that documents are cut into; 0 for whole documents."""
    num_documents: int
    num_passages: int

    @property
    def is_enough(self) -> bool:
        """Whether there are enough passages for an interval."""
        return self.num_passages >= MIN_PASSAGES


def read_small_pool(config: CurationConfig, pool: Pool) -> list[Record]:
    """Return the clean documents of a pool; none if they are many, very large, unreadable or not in files.

    Long texts are returned as they are, because repairing them takes longer than a check may.
    """
    sources = [source for source in config.sources if source.pool == pool]
    files = [source for source in sources if isinstance(source, FilesSource)]
    searches = [find_files(source, "") for source in files]
    if len(files) < len(sources) or any(search.problems or not search.files for search in searches):
        return []
    paths = chain.from_iterable(search.files for search in searches)
    if sum(path.stat().st_size for path in paths) > _MAX_BYTES:
        return []
    records = list(islice(chain.from_iterable(map(_records, files, searches)), MAX_DOCUMENTS + 1))
    if len(records) > MAX_DOCUMENTS:
        return []
    steps: list[Step] = [MinLength(config.min_characters)]
    if config.normalise and sum(len(record.text) for record in records) <= _MAX_REPAIRED:
        steps.insert(0, Normalise())
    return list(run_steps(records, steps, lambda removal: None))


def choose_heldout(records: Sequence[Record], seed: int) -> HeldOut | None:
    """Return the smallest share with enough passages; if whole documents are too few, with the length of passages.

    None if no share up to a fifth of the documents and of the text gives enough.
    """
    total = sum(len(record.text) for record in records)
    shares = {fraction: distinct_heldout(records, fraction, seed) for fraction in _FRACTIONS}
    for characters, num_documents in _FORMS:
        for fraction, heldout in shares.items():
            found = count(heldout, fraction, characters)
            length = sum(len(record.text) for record in heldout)
            fits = fraction == _FRACTIONS[0] or length <= _FRACTIONS[-1] * total
            if fits and found.is_enough and found.num_documents >= num_documents:
                return found
    return None


def distinct_heldout(records: Sequence[Record], fraction: float, seed: int) -> list[Record]:
    """Return the records that curation holds out, without duplicates."""
    return list({content_key(record): record for record in hold_out(records, fraction, seed).heldout}.values())


def count(heldout: Sequence[Record], fraction: float, characters: int) -> HeldOut:
    """Return the number of documents and passages of held-out records."""
    lengths = [max(len(cut(record.text, characters)), 1) if characters else 1 for record in heldout]
    documents = {record.id.partition("#held-out-")[0] for record in heldout}
    return HeldOut(
        fraction=fraction,
        passage_characters=characters,
        num_documents=len(documents),
        num_passages=sum(lengths),
    )


def _records(source: FilesSource, search: FileSearch) -> Iterator[Record]:
    parse = RecordParser(source)
    named = zip(search.files, search.names(), strict=True)
    items = chain.from_iterable(read_file(path, name, source) for path, name in named)
    for item in islice(items, source.limit or None):
        record = parse(item) if isinstance(item, RawRecord) else item
        if isinstance(record, Record):
            yield record
