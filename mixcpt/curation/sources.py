"""Open sources: find their records, compute the digest of their content, and read them."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mixcpt import closed_world
from mixcpt.config import CurationConfig, FilesSource, HuggingFaceSource, Source
from mixcpt.curation.corpus_report import SourceFile
from mixcpt.curation.files import FileSearch, find_files
from mixcpt.curation.parsing import RecordParser
from mixcpt.curation.readers import Item, read_file
from mixcpt.curation.records import DOCUMENT_POOLS, Defect, RawRecord, Record, wanted_fields
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import StageKey
from mixcpt.store.fingerprint import file_digest, fingerprint

_log = logging.getLogger("mixcpt.curation.reading")
_LOG_EVERY = 50_000
_VERSION = 1


@dataclass(frozen=True)
class OpenSource:
    """A source with the digest of its content; it can be read several times."""

    config: Source
    contents: tuple[SourceFile, ...]
    places: tuple[str, ...]
    """Paths or addresses, for the record only; they do not change any fingerprint."""
    items: Callable[[], Iterator[Item]]
    ignored: tuple[str, ...] = ()
    """Names of the files in folders that have no known kind."""

    @property
    def digest(self) -> str:
        return fingerprint([vars(content) for content in self.contents])

    def records(self) -> Iterator[Record | Defect]:
        """Yield the records of the source, with a defect for every unusable one; at most `limit` of them."""
        parse = RecordParser(self.config)
        for count, item in enumerate(islice(self.items(), self.config.limit or None), start=1):
            yield parse(item) if isinstance(item, RawRecord) else item
            if count % _LOG_EVERY == 0:
                _log.info("%s: %d records read", self.config.name, count)


def check_sources(config: CurationConfig) -> list[str]:
    """Return the problems of the paths of the sources, each with its key, without reading records."""
    problems: list[str] = []
    for index, source in enumerate(config.sources):
        key = f"curation.sources[{index}]"
        if isinstance(source, FilesSource):
            problems += find_files(source, key).problems
            if source.dialogue != "none" and source.pool in DOCUMENT_POOLS:
                problems.append(f"{key}.dialogue: splits prompts from answers, but pool {source.pool} holds documents")
        elif isinstance(source, HuggingFaceSource) and _is_missing(source):
            problems.append(f"{key}.path: there is no folder {source.path}")
    return problems


def open_sources(config: CurationConfig) -> list[OpenSource]:
    """Return the sources of a configuration, in its order.

    Raises:
        ConfigError: If files are missing, unreadable or of an unknown kind; it lists all of them.
    """
    if problems := check_sources(config):
        raise ConfigError(
            "the sources have problems:\n" + "\n".join(f"  {problem}" for problem in problems),
            "paths are relative to the folder in which the command runs",
        )
    return [_open(source, f"curation.sources[{index}]") for index, source in enumerate(config.sources)]


def curation_key(config: CurationConfig, sources: Sequence[OpenSource], seed: int) -> StageKey:
    """Return the key of the corpus of some open sources: their content decides it, not their paths."""
    settings = config.model_dump(mode="json", exclude={"sources": {"__all__": {"path", "paths"}}})
    del settings["max_lost_fraction"]  # it decides whether to start, not what the corpus is
    if not config.heldout_instructions:
        del settings["heldout_instructions"]  # added after the first release
    return StageKey(
        kind="corpus",
        version=_VERSION,
        settings={"curation": settings, "seed": seed},
        inputs={source.config.name: source.digest for source in sources},
    )


def _open(source: Source, key: str) -> OpenSource:
    if isinstance(source, FilesSource):
        return _open_files(source, find_files(source, key))
    if isinstance(source, HuggingFaceSource):
        return _open_huggingface(source, key)
    rows = list(closed_world.records(source))
    return _from_rows(source, rows, name=f"closed-world-{source.seed}", places=())


def _open_files(source: FilesSource, search: FileSearch) -> OpenSource:
    named = list(zip(search.files, search.names(), strict=True))
    return OpenSource(
        config=source,
        contents=tuple(
            SourceFile(name=name, sha256=file_digest(path), bytes=path.stat().st_size) for path, name in named
        ),
        places=tuple(str(path.resolve()) for path in search.files),
        items=lambda: chain.from_iterable(read_file(path, name, source) for path, name in named),
        ignored=tuple(path.name for path in search.ignored),
    )


def _from_rows(
    source: Source,
    rows: Iterable[Mapping[str, Any]],
    *,
    name: str,
    places: tuple[str, ...],
    columns: tuple[str, ...] = (),
) -> OpenSource:
    """Return a source of rows without files; the rows are its content. `columns` as in `RawRecord`."""
    digest, size = sha256(), 0
    for row in islice(rows, source.limit or None):
        line = json.dumps(row, sort_keys=True, default=str).encode() + b"\n"
        digest.update(line)
        size += len(line)
    return OpenSource(
        config=source,
        contents=(SourceFile(name=name, sha256=digest.hexdigest(), bytes=size),),
        places=places,
        items=lambda: (RawRecord(name, number, row, columns) for number, row in enumerate(rows, start=1)),
    )


def _open_huggingface(source: HuggingFaceSource, key: str) -> OpenSource:
    name = _folder(source).name if _folder(source).is_dir() else source.path
    dataset = load_huggingface(source, key)
    wanted = [column for column in dataset.column_names if column in wanted_fields(source)]
    rows = dataset.select_columns(wanted) if wanted else dataset
    return _from_rows(source, rows, name=name, places=(source.path,), columns=tuple(dataset.column_names))


def load_huggingface(source: HuggingFaceSource, key: str, *, streaming: bool = False) -> Any:
    """Return a dataset; `streaming` reads the files of a local folder only as far as they are needed.

    Raises:
        ConfigError: If the dataset cannot be loaded.
    """
    from datasets import DatasetDict, load_dataset, load_from_disk
    from datasets.exceptions import DatasetsError

    folder = _folder(source)
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            dataset: Any = load_from_disk(str(folder))
            if isinstance(dataset, DatasetDict):
                dataset = dataset[source.split]
        else:
            path = str(folder) if folder.is_dir() else source.path
            dataset = load_dataset(
                path,
                source.subset or None,
                split=source.split,
                revision=source.revision or None,
                streaming=streaming,
            )
    except (DatasetsError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(
            f"{key}: the dataset {source.path!r} (split {source.split!r}) cannot be loaded: {error}",
            "check path, subset and split; a hub dataset needs the network once and, for gated datasets, HF_TOKEN",
        ) from error
    return dataset


def _folder(source: HuggingFaceSource) -> Path:
    return Path(source.path).expanduser()


def _is_missing(source: HuggingFaceSource) -> bool:
    return source.path.startswith((".", "~", "/")) and not _folder(source).is_dir()
