"""Parse raw records into records, and report missing fields and fields of the wrong type."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from mixcpt.config import FilesSource, Source
from mixcpt.curation.records import DOCUMENT_POOLS, Defect, RawRecord, Record, field_names, printable

_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_MAX_NAMED_FIELDS = 12
_KIND_NAMES = {
    dict: "an object",
    list: "a list",
    bool: "true or false",
    int: "a number",
    float: "a number",
    bytes: "bytes (a binary column)",
    type(None): "null",
}


class _Unusable(Exception):
    """Raised with field and reason if a field of the current record cannot be used."""


class _Missing(_Unusable):
    """Raised with the field that the current record lacks."""


class NotADialogue(ValueError):
    """Raised for a text that does not consist of a prompt and an answer; the message is the reason."""


class RecordParser:
    """Parser of the raw records of one source; it gives every record a unique id."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._fields = field_names(source)
        self._dialogue = isinstance(source, FilesSource) and source.dialogue == "human_assistant"
        self._times_seen: dict[str, int] = {}

    def __call__(self, raw: RawRecord) -> Record | Defect:
        """Return the record, or a defect with the reason if it cannot be used."""
        try:
            texts = self._texts(raw.values)
        except _Missing as problem:
            present = islice(raw.columns or raw.values, _MAX_NAMED_FIELDS)
            names = printable(", ".join(map(str, present))) or "no field at all"
            return raw.defect(str(problem), f"is missing; the record has: {names}")
        except _Unusable as problem:
            return raw.defect(*problem.args)
        title = raw.values.get("title")
        return Record(
            id=self._unique_id(raw),
            source=self._source.name,
            pool=self._source.pool,
            texts=texts,
            title=printable(title).strip() if isinstance(title, str) else "",
        )

    def _texts(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        if self._source.pool in DOCUMENT_POOLS:
            return (_text(values, self._fields.text),)
        if self._source.pool == "preferences":
            return self._preference(values)
        if self._dialogue:
            return _split(values, self._fields.text)
        return self._prompt(values), _text(values, self._fields.response)

    def _preference(self, values: Mapping[str, Any]) -> tuple[str, str, str]:
        chosen_field, rejected_field = self._fields.chosen, self._fields.rejected
        if self._dialogue:
            prompt, chosen = _split(values, chosen_field)
            rejected_prompt, rejected = _split(values, rejected_field)
            if rejected_prompt != prompt:
                raise _Unusable(rejected_field, f"answers another prompt than {chosen_field!r} does")
        else:
            prompt = self._prompt(values)
            chosen, rejected = _text(values, chosen_field), _text(values, rejected_field)
        if chosen == rejected:
            raise _Unusable(rejected_field, f"is the same as {chosen_field!r}: there is nothing to prefer")
        return prompt, chosen, rejected

    def _prompt(self, values: Mapping[str, Any]) -> str:
        prompt = _text(values, self._fields.prompt)
        if values.get(self._fields.input) in (None, ""):
            return prompt
        return f"{prompt}\n{_text(values, self._fields.input, may_be_blank=True)}".rstrip()

    def _unique_id(self, raw: RawRecord) -> str:
        value = raw.values.get(self._fields.id)
        usable = isinstance(value, str | int) and not isinstance(value, bool) and value != ""
        name = printable(str(value)) if usable else f"{raw.file}:{raw.line}"
        prefix = f"{self._source.name}/"  # a record that was curated before already has it
        return self._numbered(name if name.startswith(prefix) else prefix + name)

    def _numbered(self, name: str) -> str:
        """Return the name, with #2, #3 ... appended from its second use on."""
        count = self._times_seen[name] = self._times_seen.get(name, 0) + 1
        return name if count == 1 else self._numbered(f"{name}#{count}")


def split_dialogue(text: str) -> tuple[str, str]:
    """Return prompt and last answer of a dialogue of `Human:` and `Assistant:` turns, the form of the HH-RLHF data.

    A single question becomes plain text. Prompts of several turns keep their role names, because the speakers cannot
    be distinguished without them. Turns may also be separated by the line ends of Windows.
    """
    if "\r\n\r\nAssistant:" in text:
        text = text.replace("\r\n", "\n")
    before, marker, answer = ("\n\n" + text.lstrip()).rpartition(_ASSISTANT)
    if not marker:
        raise NotADialogue("has no 'Assistant:' turn")
    if _HUMAN in answer:
        raise NotADialogue("ends with a 'Human:' turn, not with an answer")
    if not answer.strip():
        raise NotADialogue("has an empty last answer")
    if not before.startswith(_HUMAN):
        raise NotADialogue("does not begin with a 'Human:' turn")
    if not before.removeprefix(_HUMAN).strip():
        raise NotADialogue("has an empty question")
    several_turns = _ASSISTANT in before or before.count(_HUMAN) > 1
    return (before if several_turns else before.removeprefix(_HUMAN)).strip(), answer.strip()


def _split(values: Mapping[str, Any], field: str) -> tuple[str, str]:
    try:
        return split_dialogue(_text(values, field))
    except NotADialogue as problem:
        raise _Unusable(field, str(problem)) from None


def _text(values: Mapping[str, Any], field: str, *, may_be_blank: bool = False) -> str:
    if field not in values:
        raise _Missing(field)
    value = values[field]
    if not isinstance(value, str):
        raise _Unusable(field, f"is {kind_name(value)} where text was expected")
    if not may_be_blank and not value.strip():
        raise _Unusable(field, "is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _Unusable(
            field, f"holds bytes that are no valid UTF-8, or half a character, at position {error.start}"
        ) from None
    return value


def kind_name(value: Any) -> str:
    """Return the kind of a value that is no text, in words."""
    return _KIND_NAMES.get(type(value), f"a value of the type {type(value).__name__}")
