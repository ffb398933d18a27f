"""Field names of a user's files, from their first records."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

from mixcpt.config import FieldNames, FilesSource, Pool
from mixcpt.curation.files import find_files
from mixcpt.curation.parsing import kind_name
from mixcpt.curation.readers import DOCUMENT_SUFFIXES, read_file, reader_kind
from mixcpt.curation.records import RawRecord
from mixcpt.curation.remedies import form_remedy
from mixcpt.errors import ConfigError

Record: TypeAlias = Mapping[str, Any]

_TEXT = ("text", "content", "body", "document", "markdown", "article", "passage", "page_content", "raw_content")
_PROMPT = ("prompt", "instruction", "question", "query", "problem", "input")
_INPUT = ("input", "context")
_RESPONSE = ("response", "output", "completion", "answer", "target", "solution")
_CHOSEN = ("chosen", "chosen_response", "preferred")
_REJECTED = ("rejected", "rejected_response", "dispreferred")
_USUAL = {"text": _TEXT, "prompt": _PROMPT, "response": _RESPONSE, "chosen": _CHOSEN, "rejected": _REJECTED}
_IDENTIFIER = ("id", "_id", "uuid", "guid")
_DIALOGUE = "\n\nHuman:"
_NUM_LOOKED_AT = 20


def find_sources(pool: Pool, paths: Sequence[str], option: str) -> list[FilesSource]:
    """Return sources that read these files, one for each set of field names.

    Raises:
        ConfigError: If a path does not exist, or a file has no fields that the pool can use.
    """
    groups: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for path in paths:
        settings = _settings(pool, path, option)
        groups.setdefault(json.dumps(settings, sort_keys=True), (settings, []))[1].append(path)
    names = [pool if number == 1 else f"{pool}-{number}" for number in range(1, len(groups) + 1)]
    return [
        FilesSource.model_validate({"name": name, "pool": pool, "paths": tuple(group), **settings})
        for name, (settings, group) in zip(names, groups.values(), strict=True)
    ]


def _settings(pool: Pool, path: str, option: str) -> dict[str, Any]:
    """Return the settings `fields` and `dialogue` of a source, as far as they differ from the defaults."""
    search = find_files(FilesSource(name=pool, pool=pool, paths=(path,)), option)
    if search.problems:
        raise ConfigError(
            "\n".join(problem.replace(f"{option}.paths[0]", option) for problem in search.problems),
            "give a file, a folder or a glob in quotation marks; paths are relative to the current folder",
        )
    for file in search.files:
        if reader_kind(file) not in DOCUMENT_SUFFIXES and (record := first_record(file)):
            return _chosen(pool, record, f"{option} {file}")
    return {}


def num_records(sources: Sequence[FilesSource], *, limit: int) -> int:
    """Return the number of records of the sources, at most `limit`."""
    records = chain.from_iterable(map(_records, sources))
    return sum(isinstance(item, RawRecord) for item in islice(records, limit))


def _records(source: FilesSource) -> Iterator[Any]:
    for file in find_files(source, source.name).files:
        yield from read_file(file, file.name, source)


def first_record(file: Path) -> Record | None:
    """Return the first usable record of a file; None if there is none among the first lines."""
    if reader_kind(file) == ".parquet":
        return _first_row(file)
    source = FilesSource(name="any", pool="domain", paths=(str(file),))
    records: Iterator[Any] = islice(read_file(file, file.name, source), _NUM_LOOKED_AT)
    return next((item.values for item in records if isinstance(item, RawRecord)), None)


def _first_row(file: Path) -> Record | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            batch = next(parquet.iter_batches(batch_size=1), None)
            return batch.to_pylist()[0] if batch else None
    except (pa.ArrowException, OSError):
        return None  # the checks name the damage


def _chosen(pool: Pool, record: Record, place: str) -> dict[str, Any]:
    texts = [name for name, value in record.items() if isinstance(value, str)]
    if pool in ("domain", "general"):
        wanted: dict[str, str] = {"text": pick(texts, _TEXT) or _only_text(record, texts)}
    elif pool == "preferences":
        wanted = {"chosen": pick(texts, _CHOSEN), "rejected": pick(texts, _REJECTED)}
        if wanted["chosen"] and _DIALOGUE in record[wanted["chosen"]]:
            return _without_defaults(wanted) | {"dialogue": "human_assistant"}
        wanted["prompt"] = pick(texts, _PROMPT)
    else:
        if _DIALOGUE in str(record.get("text")):
            return {"dialogue": "human_assistant"}
        wanted = {"response": pick(texts, _RESPONSE), "prompt": pick(texts, _PROMPT)}
    if missing := sorted(name for name, field in wanted.items() if not field):
        raise _missing(pool, record, missing, place)
    if pool not in ("domain", "general"):
        wanted["input"] = next((name for name in _INPUT if name in texts and name != wanted["prompt"]), "input")
    return _without_defaults(wanted)


def _only_text(record: Record, texts: Sequence[str]) -> str:
    """Return the only field with text besides the identifier, if no field with a usual name holds something else."""
    others = [name for name in texts if name.lower() not in _IDENTIFIER]
    return others[0] if len(others) == 1 and not pick(list(record), _TEXT) else ""


def _missing(pool: Pool, record: Record, missing: Sequence[str], place: str) -> ConfigError:
    """Return the error about the fields that a pool needs and the first record of a file lacks."""
    needs = " and ".join(missing)
    found = {name: pick(list(record), _USUAL[name]) for name in missing}
    if odd := {name: field for name, field in found.items() if field}:
        kinds = ", ".join(f"{field!r} is {kind_name(record[field])}" for field in dict.fromkeys(odd.values()))
        problem = f"{place}: found no text for {needs} of pool {pool}; in its first record, {kinds}"
    else:
        names = ", ".join(map(str, record)) or "no fields"
        problem = f"{place}: found no field for {needs} of pool {pool}; its first record has {names}"
    remedy = form_remedy(FilesSource(name=pool, pool=pool, paths=(place,)), record)
    return ConfigError(
        problem,
        remedy
        or f"rename a field to {needs}, or write the configuration without this file and name the field in "
        "curation.sources, under fields",
    )


def pick(names: Sequence[str], known: Sequence[str]) -> str:
    """Return the first known name that is among the names, in any case of letters; empty if there is none."""
    lowered = {name.lower(): name for name in reversed(names)}
    return next((lowered[name] for name in known if name in lowered), "")


def _without_defaults(fields: Mapping[str, str]) -> dict[str, Any]:
    defaults = FieldNames()
    changed = {name: field for name, field in fields.items() if field != getattr(defaults, name)}
    return {"fields": changed} if changed else {}
