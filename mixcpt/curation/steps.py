"""The cleaning steps, each of which gives a reason for every removal, and the choice of held-out documents."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from typing import Protocol, runtime_checkable

from mixcpt.curation.records import DOCUMENT_POOLS, Record

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\ufff9-\ufffb]")
_LINE_END = re.compile(r"\r\n|[\r\v\f\x85\u2028\u2029]")
_END_MARKS = ("<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>")
"""Markers that exported datasets leave at the end of a text."""
MIN_SAMPLES = 10
"""Number of different samples from which on one is held out."""
_MIN_POOL = 20
"""Minimum number of documents in a pool that has at least one held-out document."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of a step for one record: kept, perhaps changed, if the reason is empty, and removed otherwise."""

    record: Record
    reason: str = ""
    subject: str = ""
    """Object of the reason, such as the id of the record that this one repeats."""

    @property
    def keep(self) -> bool:
        return not self.reason


@runtime_checkable
class Step(Protocol):
    """One cleaning rule. It receives all records of a pool in order, so it may also compare them."""

    @property
    def name(self) -> str:
        """Name of the step in reports."""

    def __call__(self, records: Iterable[Record]) -> Iterator[Verdict]:
        """Yield one verdict per record."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A removed record and the name of the step that removed it."""

    step: str
    verdict: Verdict

    def __str__(self) -> str:
        reason = f"{self.verdict.reason} {self.verdict.subject}".rstrip()
        return f"{self.verdict.record.id}: removed by {self.step}: {reason}"

    @property
    def group(self) -> tuple[str, str, str]:
        """Step, reason and source: reports count removals by them."""
        return self.step, self.verdict.reason, self.verdict.record.source


def run_steps(records: Iterable[Record], steps: Sequence[Step], remove: Callable[[Removal], None]) -> Iterator[Record]:
    """Yield the records that every step keeps, one at a time, and call `remove` with the others."""
    for step in steps:
        records = _through(step, records, remove)
    return iter(records)


def _through(step: Step, records: Iterable[Record], remove: Callable[[Removal], None]) -> Iterator[Record]:
    for verdict in step(records):
        if verdict.keep:
            yield verdict.record
        else:
            remove(Removal(step.name, verdict))


@dataclass(frozen=True)
class Normalise:
    """Repair and normalise Unicode; remove records that are empty afterwards."""

    name: str = "normalise"

    def __call__(self, records: Iterable[Record]) -> Iterator[Verdict]:
        for record in records:
            texts = tuple(clean_text(text) for text in record.texts)
            yield Verdict(replace(record, texts=texts), "" if all(texts) else "nothing left after normalisation")


@dataclass(frozen=True)
class MinLength:
    """Remove short documents; questions and answers may be short."""

    min_characters: int
    name: str = "min_characters"

    def __call__(self, records: Iterable[Record]) -> Iterator[Verdict]:
        for record in records:
            short = record.pool in DOCUMENT_POOLS and len(record.text) < self.min_characters
            yield Verdict(record, f"shorter than {self.min_characters} characters" if short else "")


@dataclass
class Duplicates:
    """Remove every record with the same texts as an earlier one, in any source."""

    reason: str = "duplicate of"
    name: str = "deduplicate"
    _first: dict[bytes, str] = field(default_factory=dict)

    def __call__(self, records: Iterable[Record]) -> Iterator[Verdict]:
        for record in records:
            first = self._first.setdefault(content_key(record), record.id)
            yield Verdict(record) if first == record.id else Verdict(record, self.reason, first)


@dataclass(frozen=True)
class Repeats:
    """Remove records that are held out, and therefore must not be learned, or that another corpus contains."""

    originals: Mapping[bytes, str]
    """Id of the original record, by `content_key`."""
    reason: str
    name: str

    def __call__(self, records: Iterable[Record]) -> Iterator[Verdict]:
        for record in records:
            original = self.originals.get(content_key(record), "")
            yield Verdict(record, self.reason if original else "", original)


def content_key(record: Record) -> bytes:
    """Return a hash of the record's texts; exact duplicates have the same hash, independent of source and id."""
    return text_key("\0".join(record.texts))


def text_key(text: str) -> bytes:
    """Return the `content_key` of a document with this text."""
    return sha256(text.encode()).digest()


def split_heldout(records: Sequence[Record], fraction: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Return the training documents and the held-out documents.

    A document is held out if the hash of its text and the seed is below `fraction`. Adding documents therefore moves no
    other document, and equal documents stay together. At least one document of a pool of 20 or more is held out, and at
    least one text remains for training.
    """
    keys = [content_key(record) for record in records]
    digests = {key: sha256(f"{seed}\0".encode() + key).digest() for key in keys}
    draws = {key: int.from_bytes(digest[:6]) / 2**48 for key, digest in digests.items()}  # in [0, 1)
    heldout = {key for key, draw in draws.items() if draw < fraction}
    if not heldout and fraction > 0 and len(records) >= _MIN_POOL:
        heldout = {min(draws, key=draws.__getitem__)}
    if len(heldout) == len(draws) and heldout:
        heldout.remove(max(draws, key=draws.__getitem__))
    training = [record for record, key in zip(records, keys, strict=True) if key not in heldout]
    return training, [record for record, key in zip(records, keys, strict=True) if key in heldout]


def split_samples(records: Sequence[Record], number: int, seed: int) -> tuple[list[Record], list[Record]]:
    """Return the training samples and the held-out samples: `number` of them, but at most a tenth.

    The texts and the seed decide, so the order of the samples does not matter, and equal samples stay together.
    """
    keys = [content_key(record) for record in records]
    ranked = sorted(set(keys), key=lambda key: sha256(f"{seed}\0".encode() + key).digest())
    heldout = set(ranked[: min(number, len(ranked) // MIN_SAMPLES)])
    training = [record for record, key in zip(records, keys, strict=True) if key not in heldout]
    return training, [record for record, key in zip(records, keys, strict=True) if key in heldout]


def clean_text(text: str) -> str:
    """Return the text repaired: NFC, line ends as `\\n`, without control characters, trailing space and end marks."""
    if not text.isascii():
        text = _fixer()(text)
    text = unicodedata.normalize("NFC", _CONTROL.sub("", _LINE_END.sub("\n", text)))
    text = "\n".join(line.rstrip() for line in text.split("\n")).strip()
    end = len(text)
    while text.endswith(_END_MARKS, 0, end):
        end = _end_without_space(text, text.rindex("<|", 0, end))
    return text[:end]


def _end_without_space(text: str, end: int) -> int:
    while end and text[end - 1].isspace():
        end -= 1
    return end


@cache
def _fixer() -> Callable[[str], str]:
    """Return ftfy's repair of mis-decoded text; it leaves quotes, HTML and wide characters unchanged."""
    import ftfy

    config = ftfy.TextFixerConfig(
        uncurl_quotes=False, unescape_html=False, fix_character_width=False, normalization=None, explain=False
    )
    return lambda text: ftfy.fix_text(text, config)
