"""Digests of large files are kept until the files change."""

import os
from pathlib import Path

import pytest

from mixcpt.store import digest_cache
from mixcpt.store.digest_cache import cached_digest
from mixcpt.store.fingerprint import file_digest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digest_cache, "_MIN_BYTES", 4)
    monkeypatch.setattr(digest_cache, "_MIN_AGE_SECONDS", -1.0)
    return tmp_path / "cache" / "mixcpt" / "digests"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"first")
    return path


def test_second_digest_comes_from_the_cache(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = cached_digest(file)
    assert digest == file_digest(file)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(digest_cache, "file_digest", lambda path: "read again")
    assert cached_digest(file) == digest


def test_change_of_the_same_size_and_time_is_seen(file: Path) -> None:
    before, stat = cached_digest(file), file.stat()
    file.write_bytes(b"other")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cached_digest(file) == file_digest(file) != before


def test_replaced_file_is_read_again(file: Path, tmp_path: Path) -> None:
    before = cached_digest(file)
    (tmp_path / "new").write_bytes(b"other")
    (tmp_path / "new").replace(file)
    assert cached_digest(file) == file_digest(file) != before


def test_recent_change_is_not_remembered(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_cache, "_MIN_AGE_SECONDS", 1e6)
    assert cached_digest(file) == file_digest(file)
    assert not cache.exists()


def test_small_file_is_always_read(file: Path, cache: Path) -> None:
    file.write_bytes(b"abc")
    assert cached_digest(file) == file_digest(file)
    assert not cache.exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"state": 1}', "\x00"])
def test_damaged_entry_is_replaced(content: str, file: Path, cache: Path) -> None:
    digest = cached_digest(file)
    [entry] = cache.iterdir()
    entry.write_text(content)
    assert cached_digest(file) == digest
    assert digest in entry.read_text()


def test_folder_that_cannot_be_written_means_no_cache(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert cached_digest(file) == file_digest(file)
