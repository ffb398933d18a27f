"""Digests of large files, kept in the user's cache folder, because hashing the weights of a model takes a minute."""

import json
import os
import tempfile
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from mixcpt.store.fingerprint import file_digest

_MIN_BYTES = 64 * 2**20
"""Size of a file below which its digest is computed every time."""
_MIN_AGE_SECONDS = 2.0
"""Age of the last change from which on another change has another time stamp on every file system."""


def cached_digest(path: Path) -> str:
    """Return the SHA-256 of a file as `file_digest` does; a large file is not read again until it changes.

    A change is seen by size, inode and the times of the last change of content and of properties. The cache is in
    `$XDG_CACHE_HOME/mixcpt` or `~/.cache/mixcpt`; without a folder that can be written, every call reads the file.
    """
    path = path.resolve()
    state = _state(path)
    if state["size"] < _MIN_BYTES:
        return file_digest(path)
    entry = _folder() / f"{sha256(os.fsencode(path)).hexdigest()}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(entry.read_text(encoding="utf-8"))
        if known["state"] == state:
            return str(known["digest"])
    digest = file_digest(path)
    is_settled = time.time() - max(state["changed"], state["written"]) / 1e9 > _MIN_AGE_SECONDS
    if is_settled and _state(path) == state:
        with suppress(OSError):
            _write(entry, json.dumps({"state": state, "digest": digest}))
    return digest


def _state(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"size": stat.st_size, "inode": stat.st_ino, "written": stat.st_mtime_ns, "changed": stat.st_ctime_ns}


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    with suppress(RuntimeError):  # a user without a home folder
        return Path(base).expanduser() / "mixcpt" / "digests"
    return Path(tempfile.gettempdir()) / "mixcpt" / "digests"


def _write(entry: Path, text: str) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    draft = entry.with_suffix(f".{os.getpid()}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(entry)
