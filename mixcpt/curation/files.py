"""Find the files of a source. Its paths are files, folders (searched recursively) and globs."""

import glob
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mixcpt.config import FilesSource
from mixcpt.curation.readers import DOCUMENT_SUFFIXES, KNOWN_SUFFIXES, reader_kind
from mixcpt.curation.records import DOCUMENT_POOLS, printable


@dataclass
class FileSearch:
    """The files found at the paths of a source."""

    files: list[Path] = field(default_factory=list)
    """Files without repetition, in the order of the paths and sorted within a folder or glob."""
    ignored: list[Path] = field(default_factory=list)
    """Files in folders that have an unknown kind."""
    problems: list[str] = field(default_factory=list)
    """Problems, each with key and path."""

    def names(self) -> list[str]:
        """Return the names of the files in reports: their paths relative to their deepest common folder."""
        resolved = [path.resolve() for path in self.files]
        root = os.path.commonpath([path.parent for path in resolved])
        return [printable(path.relative_to(root).as_posix()) for path in resolved]


def find_files(source: FilesSource, key: str) -> FileSearch:
    """Return the files of a source; `key` is the place of the source in the settings."""
    search = FileSearch()
    for index, pattern in enumerate(source.paths):
        try:
            files = _matches(pattern, source, search)
        except (OSError, RuntimeError, ValueError) as error:  # too long a name, a loop of links, no home folder
            search.problems.append(f"{key}.paths[{index}]: {printable(pattern)[:200]!r} is not a path: {error}")
            continue
        problems = map(partial(_problem, source), files) if files else [_why_empty(pattern)]
        search.problems += [f"{key}.paths[{index}]: {problem}" for problem in problems if problem]
        search.files += files
    search.files = list({path.resolve(): path for path in reversed(search.files)}.values())[::-1]
    return search


def _matches(pattern: str, source: FilesSource, search: FileSearch) -> list[Path]:
    """Return the files that a path or glob names, and add the others of a folder to `search.ignored`."""
    path = Path(pattern).expanduser()
    if pattern and path.is_dir():
        return _search_folder(path, source, search)
    if path.is_file():
        return [path]
    # `Path.glob` does not accept absolute patterns
    matches = map(Path, sorted(glob.glob(str(path), recursive=True)))  # noqa: PTH207
    return [match for match in matches if match.is_file()]


def _search_folder(folder: Path, source: FilesSource, search: FileSearch) -> list[Path]:
    """Return the files in a folder that can be read, and add the others to `search.ignored`."""
    files = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not path.is_file() or hidden:
            continue
        if reader_kind(path) and not _lacks_fields(path, source):
            files.append(path)
        else:
            search.ignored.append(path)
    return files


def _problem(source: FilesSource, path: Path) -> str:
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


def _why_empty(pattern: str) -> str:
    if pattern and Path(pattern).expanduser().is_dir():
        return f"the folder {pattern} holds no file of a known kind ({', '.join(KNOWN_SUFFIXES)})"
    if glob.has_magic(pattern):
        return f"no file matches {pattern}"
    return f"there is no file {pattern!r}"
