"""Random damage for bad_inputs.py: bytes, encodings, and values that no reader expects."""

import gzip
import json
import random
from typing import Any

Result = tuple[str, str]
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 10**40, 1e308, -1e-300, 0.5),
    *("", " ", "\x00", "\ufeff", "A", "nan", "inf", "1e3", "../../etc", "{{ x }}", "<script>", "\u202e", "é", "漢字"),
    *([], [None], [[]], {}, {"A": 1}, ["a"] * 300, "x" * 100_000, {"a": {"b": {"c": []}}}),
)
_ENCODINGS = ("utf-8-sig", "utf-16", "utf-32", "latin-1", "cp037")
WORDS = (
    *("river", "stone", "lamp", "garden", "letter", "winter", "bread"),
    *("market", "shoulder", "copper", "window", "island", "teacher", "harbour"),
)


class Loss(Exception):
    """A record is neither used nor set aside nor refused."""


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(12, 30))).capitalize() + "."


def damage(content: bytes, rng: random.Random) -> bytes:
    """Return the content after one to three random changes of its bytes."""
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(content) + 1)
        end = min(len(content), place + rng.choice((1, 2, 16, 300)))
        change = rng.randrange(10)
        if change == 0:
            content = content[:place]
        elif change == 1:
            content = content[:place] + content[end:]
        elif change == 2:
            content = content[:place] + rng.randbytes(end - place) + content[end:]
        elif change == 3:
            content = content[:place] + content[place:end] * rng.choice((2, 50)) + content[end:]
        elif change == 4:
            content = content.decode("utf-8", "replace").encode(rng.choice(_ENCODINGS), "replace")
        elif change == 5:
            content = content.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"\x00", b"")))
        elif change == 6:
            content = gzip.compress(content, compresslevel=1)
        elif change == 7:
            content = (
                content[:place] + rng.choice((b"\x00", b"\xff\xfe", b'"', b"{", b"}", b"\xf0\x9f")) + content[place:]
            )
        elif change == 8:
            content = content.replace(b'"', rng.choice((b"'", b"", b'\\"')), rng.randint(1, 4))
        else:
            content = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    return content


def odd_record(record: dict[str, Any], rng: random.Random) -> Any:
    """Return the record with a changed, renamed, missing or additional field, or another value in its place."""
    key = rng.choice(list(record))
    change = rng.randrange(6)
    if change == 0:
        return record | {key: rng.choice(ODD_VALUES)}
    if change == 1:
        return {name: value for name, value in record.items() if name != key}
    if change == 2:
        return {
            rng.choice(("Text", "content", "", "x" * 1000)) if name == key else name: v for name, v in record.items()
        }
    if change == 3:
        return record | {str(rng.choice(ODD_VALUES))[:50]: rng.choice(ODD_VALUES)}
    return rng.choice(ODD_VALUES) if change == 4 else [record]


def json_lines(records: list[Any]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode("utf-8", "replace")
