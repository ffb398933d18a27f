"""Generated texts on disk: one line per text, appended as it arrives, so that a crash loses only texts in flight.

    STORE/generated/<generator>.jsonl      key, text and tokens of every answer

The file belongs to the store, not to a run: a later run, or a later round of re-adaptation, finds its texts again.
"""

import fcntl
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = "generated"
_SHORT = 16


@dataclass(frozen=True, kw_only=True)
class Generated:
    """The answer of a generator to one request."""

    key: str
    """Identity of the request."""
    text: str
    is_whole: bool = True
    """Whether the generator ended the text itself, before the limit of its length."""
    tokens_read: int = 0
    """Tokens of the prompt, by the generator's tokenizer."""
    tokens_written: int = 0


class Memory:
    """The answers of one generator in a store."""

    def __init__(self, store: Path, generator: str) -> None:
        self.path = store / FOLDER / f"{generator[:_SHORT]}.jsonl"

    def read(self) -> dict[str, Generated]:
        """Return all answers by key. A line that a crash cut is left out; of equal keys the first counts."""
        answers: dict[str, Generated] = {}
        if not self.path.exists():
            return answers
        for line in self.path.read_bytes().splitlines():
            with suppress(ValueError, TypeError):
                answer = Generated(**json.loads(line))
                answers.setdefault(answer.key, answer)
        return answers

    def add(self, answers: Iterable[Generated]) -> None:
        """Append answers and sync the file. Several processes may append at once."""
        lines = "".join(json.dumps(asdict(answer)) + "\n" for answer in answers).encode()
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.write(_after_cut_line(stream.fileno()) + lines)
            stream.flush()
            os.fsync(stream.fileno())


def _after_cut_line(descriptor: int) -> bytes:
    """Return a line break if the file ends within a line that a crash cut."""
    size = os.fstat(descriptor).st_size
    return b"\n" if size and os.pread(descriptor, 1, size - 1) != b"\n" else b""
