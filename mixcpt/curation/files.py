"""Finds the files that a source names: files, folders (searched through) and globs."""

import glob
import os
from dataclasses import dataclass, field
from pathlib import Path

from mixcpt.config import FilesSource
from mixcpt.curation.readers import DOCUMENT_SUFFIXES, KNOWN_SUFFIXES, reader_kind
from mixcpt.curation.records import DOCUMENT_POOLS, printable


@dataclass
class FileSearch:
    """What the paths of a source led to."""

    files: list[Path] = field(default_factory=list)
    """Each once, in the order of the paths and sorted within a folder or glob."""
    ignored: list[Path] = field(default_factory=list)
    """Files inside folders that are of no kind that can be read."""
    problems: list[str] = field(default_factory=list)
    """What is wrong, naming key and path."""

    def names(self) -> list[str]:
        """Returns what reports call the files: their places below the deepest folder that holds them all."""
        resolved = [path.resolve() for path in self.files]
        root = os.path.commonpath([path.parent for path in resolved])
        return [printable(path.relative_to(root).as_posix()) for path in resolved]


def find_files(source: FilesSource, key: str) -> FileSearch:
    """Returns the files of a source; `key` is where the source stands in the settings."""
    search = FileSearch()
    for index, pattern in enumerate(source.paths):
        _find(pattern, source, f"{key}.paths[{index}]", search)
    search.files = list({path.resolve(): path for path in reversed(search.files)}.values())[::-1]
    return search


def _find(pattern: str, source: FilesSource, where: str, search: FileSearch) -> None:
    path = Path(pattern).expanduser()
    if pattern and path.is_dir():
        found = _search_folder(path, source, search)
    elif path.is_file():
        found = [path]
    else:  # Path.glob takes no absolute patterns
        found = [match for match in map(Path, sorted(glob.glob(str(path), recursive=True))) if match.is_file()]  # noqa: PTH207
    if not found:
        search.problems.append(f"{where}: {_why_nothing(pattern)}")
    for file in found:
        if problem := _problem(file, source):
            search.problems.append(f"{where}: {problem}")
    search.files += found


def _search_folder(folder: Path, source: FilesSource, search: FileSearch) -> list[Path]:
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not path.is_file() or hidden:
            continue
        if reader_kind(path) and not _lacks_fields(path, source):
            found.append(path)
        else:
            search.ignored.append(path)
    return found


def _problem(path: Path, source: FilesSource) -> str:
    if not reader_kind(path):
        known = ", ".join(KNOWN_SUFFIXES)
        return f"{path} has an unknown suffix; known are {known}, and all but parquet also with .gz"
    if _lacks_fields(path, source):
        return f"{path} is one document without fields, but pool {source.pool} needs records"
    if not os.access(path, os.R_OK):
        return f"{path} may not be read by this user"
    return ""


def _lacks_fields(path: Path, source: FilesSource) -> bool:
    return reader_kind(path) in DOCUMENT_SUFFIXES and source.pool not in DOCUMENT_POOLS


def _why_nothing(pattern: str) -> str:
    if pattern and Path(pattern).expanduser().is_dir():
        return f"the folder {pattern} holds no file of a known kind ({', '.join(KNOWN_SUFFIXES)})"
    if glob.has_magic(pattern):
        return f"no file matches {pattern}"
    return f"there is no file {pattern!r}"
