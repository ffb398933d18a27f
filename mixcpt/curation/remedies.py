"""Remedies for records that cannot be used, found in the fields that they have."""

from collections.abc import Mapping, Sequence
from typing import Any

from mixcpt.config import FieldNames, FilesSource, Source
from mixcpt.curation.records import DOCUMENT_POOLS, Defect, RawRecord, field_names

_SYNONYMS = {
    "text": ("text", "content", "body", "article", "document", "passage", "page_content", "raw_content", "markdown"),
    "prompt": ("prompt", "instruction", "question", "query", "problem", "user", "human", "request", "input"),
    "response": ("response", "output", "answer", "completion", "assistant", "solution", "target", "reply", "chosen"),
    "chosen": ("chosen", "response_chosen", "chosen_response", "accepted", "preferred", "winner", "positive", "better"),
    "rejected": ("rejected", "response_rejected", "rejected_response", "dispreferred", "loser", "negative", "worse"),
}
"""Usual names of the fields, the most frequent first."""
_USED = {
    "domain": ("text",),
    "general": ("text",),
    "instructions": ("prompt", "response"),
    "preferences": ("prompt", "chosen", "rejected"),
}
"""Fields that the records of a pool must have."""
_BYTES_REMEDY = "store the column as text (string), not as binary"
_TURNS = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns")
"""Usual names of a field with a conversation as a list."""


def remedy(source: Source, defects: Sequence[Defect], unparsed: Sequence[RawRecord]) -> str:
    """Return the remedy for the unusable records of a source; empty without any."""
    if unparsed:
        names = unparsed[0].columns or tuple(unparsed[0].values)
        return (
            _dialogue_remedy(source, unparsed[0].values)
            or _turns_remedy(source, unparsed[0].values, names)
            or _names_remedy(source, defects, names)
            or _bytes_remedy(defects)
            or "correct the records, or name the right fields in the source's fields"
        )
    return "convert or correct the file" if defects else ""


def form_remedy(source: Source, values: Mapping[str, Any]) -> str:
    """Return the remedy for a record whose texts are lists or bytes; empty for other records."""
    has_bytes = any(isinstance(value, bytes) for value in values.values())
    return _turns_remedy(source, values, tuple(values)) or (_BYTES_REMEDY if has_bytes else "")


def _bytes_remedy(defects: Sequence[Defect]) -> str:
    return _BYTES_REMEDY if "binary" in defects[0].reason else ""


def _dialogue_remedy(source: Source, values: Mapping[str, Any]) -> str:
    """Return the remedy for a dialogue of `Human:` and `Assistant:` turns that is read as a single text."""
    fields = field_names(source)
    text = values.get(fields.chosen if source.pool == "preferences" else fields.text)
    has_turns = isinstance(text, str) and "Human:" in text and "Assistant:" in text
    if source.pool in DOCUMENT_POOLS or not has_turns:
        return ""
    if not isinstance(source, FilesSource):
        return "save the dataset as jsonl, and read it with kind: files and dialogue: human_assistant"
    return "" if source.dialogue != "none" else "set dialogue: human_assistant in this source"


def _turns_remedy(source: Source, values: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the remedy for a conversation that is stored as a list of messages."""
    lists = [name for name in names if isinstance(values.get(name), list) or name in _TURNS]
    if not lists or source.pool in DOCUMENT_POOLS:
        return ""
    *others, last = _USED[source.pool]
    wanted = f"{', '.join(others)} and {last}"
    return (
        f"the field {lists[0]!r} holds a conversation as a list, which is not read: write one record per exchange, "
        f"with the texts in the fields {wanted}"
    )


def _names_remedy(source: Source, defects: Sequence[Defect], names: Sequence[str]) -> str:
    """Return the settings of `fields` that fit the names of the records' fields."""
    if not any(defect.reason.startswith("is missing") for defect in defects):
        return ""
    wrong = [name for name in _USED[source.pool] if getattr(field_names(source), name) not in names]
    found = {name: likely for name in wrong if (likely := likely_field(name, names, field_names(source)))}
    if not found:
        return (
            f"name the right fields in {source.name}'s fields, for example fields: {{{wrong[0]}: NAME}}"
            if wrong
            else ""
        )
    settings = ", ".join(f"{name}: {likely}" for name, likely in found.items())
    return f"set fields: {{{settings}}} in this source"


def likely_field(name: str, present: Sequence[str], fields: FieldNames) -> str:
    """Return the present field that most probably holds the text that a setting names; empty if none does."""
    taken = {getattr(fields, other) for other in _SYNONYMS if other != name} - {fields.input}
    by_lower = {present_name.lower(): present_name for present_name in present if present_name not in taken}
    return next((by_lower[synonym] for synonym in _SYNONYMS[name] if synonym in by_lower), "")
