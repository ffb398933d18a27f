"""Read texts that were made elsewhere, and assign them to the documents that they are about."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixcpt.config.rewrite import FilesGenerator
from mixcpt.errors import DataError
from mixcpt.rewrite.forms import Form
from mixcpt.rewrite.memory import Generated
from mixcpt.rewrite.passages import Document, Passage
from mixcpt.rewrite.requests import Request

_FIELDS = ("document", "form", "text")


def read_answers(
    config: FilesGenerator, documents: Sequence[Document], forms: Sequence[Form]
) -> list[tuple[Request, Generated]]:
    """Return the texts of the files as answers about whole documents.

    Raises:
        DataError: If a file cannot be read, or a line has other fields, an unknown document or an unknown form.
    """
    # The id in the corpus begins with the source, which the files need not repeat.
    by_id = {document.id.removeprefix(f"{document.source}/"): document for document in documents}
    by_id |= {document.id: document for document in documents}
    by_name = {form.name: form for form in forms}
    counts: Counter[tuple[str, str]] = Counter()
    answers = []
    for path in map(Path, config.paths):
        for number, line in enumerate(_lines(path), start=1):
            place = f"rewrite.generator.paths: {path}, line {number}"
            document_id, form_name, text = _fields(line, place)
            if document_id not in by_id:
                raise DataError(f"{place}: the corpus has no document {document_id!r}", _example(by_id, "documents"))
            if form_name not in by_name:
                raise DataError(f"{place}: rewrite.forms has no form {form_name!r}", _example(by_name, "forms"))
            passage = Passage(document=by_id[document_id], number=0, text=by_id[document_id].text)
            repetition = counts[document_id, form_name]
            counts[document_id, form_name] += 1
            request = Request(passage=passage, form=by_name[form_name], repetition=repetition)
            answers.append((request, Generated(key=f"{path.name}:{number}", text=text)))
    return answers


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"rewrite.generator.paths: {path} cannot be read: {error}", "name files of JSON lines"
        ) from None


def _fields(line: str, place: str) -> tuple[str, str, str]:
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: no JSON: {error}", "write one JSON object per line") from None
    fields = record if isinstance(record, dict) else {}
    if wrong := [name for name in _FIELDS if not isinstance(fields.get(name), str)]:
        there = ", ".join(map(str, fields)) or "none"
        raise DataError(
            f"{place}: {' and '.join(wrong)} must be text; the fields are {there}", f"write {', '.join(_FIELDS)}"
        )
    return fields["document"], fields["form"], fields["text"]


def _example(known: dict[str, Any], title: str) -> str:
    return f"the {title} are {', '.join(list(known)[:5])}{', ...' if len(known) > 5 else ''}"
