"""The manifest of an evaluation: all conditions that must be equal before two results may be compared.

It has the items, the lm-eval definitions (with few-shot examples, generation settings, filters and metrics), the prompt
form, the chat template, the first-token rule, the split and the libraries; but not the weights or the batch size.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mixcpt.errors import DataError
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.fingerprint import fingerprint

FILE = "manifest.json"
LIBRARIES = ("lm-eval", "transformers")
"""Libraries whose versions can change an answer."""
_MAX_SHOWN_CHARACTERS = 60
_ABSENT = "absent"
_FORM_FIELDS = ("form", "chat_template", "first_token", "answer_delimiter")
"""Fields that follow from the prompt form; they may differ between a base without chat template and a chat model."""


@dataclass(frozen=True, kw_only=True)
class TaskManifest:
    """The conditions of one task."""

    definition: Mapping[str, Any]
    """The lm-eval definition, with the path of its data relative to the artifact."""
    items: str
    """Digest of the items."""
    num_items: int
    form: str
    """The prompt form: `plain` or `chat`."""
    first_token: str
    """`bos` if prompts start with one, `none` if the tokenizer has none, `template` if the template decides."""
    answer_delimiter: str
    """White space that the chat form inserts before an answer."""


@dataclass(frozen=True)
class Manifest:
    """The conditions of one evaluation."""

    split: str
    chat_template: str
    """Text of the template; empty if no task used it."""
    tasks: Mapping[str, TaskManifest]
    libraries: Mapping[str, str]

    @property
    def digest(self) -> str:
        return fingerprint(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, evaluation: ArtifactRef) -> "Manifest":
        data = json.loads(evaluation.file(FILE).read_text(encoding="utf-8"))
        return cls(**{**data, "tasks": {name: TaskManifest(**task) for name, task in data["tasks"].items()}})


def require_equal(first: ArtifactRef, second: ArtifactRef, *, across_forms: bool = False) -> None:
    """Raise `DataError` with all differences if two evaluations ran under different conditions.

    With `across_forms`, the prompt forms may differ, for a base without chat template.
    """
    ours, theirs = Manifest.of(first).to_json(), Manifest.of(second).to_json()
    ignored = _FORM_FIELDS if across_forms else ()
    differences = [text for field, text in _differences(ours, theirs, "") if field not in ignored]
    if differences:
        raise DataError(
            f"the evaluations {first.path} and {second.path} cannot be compared: {'; '.join(differences)}",
            "evaluate both models with the same tasks, prompt form, template, split and libraries",
        )


def _differences(first: Any, second: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the name of every field that differs, with a text."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for name in dict.fromkeys([*first, *second]):
            below = f"{path}.{name}" if path else name
            yield from _differences(first.get(name, _ABSENT), second.get(name, _ABSENT), below)
    elif first != second:
        yield path.rpartition(".")[2], f"{path} is {_short(first)} in the first, {_short(second)} in the second"


def _short(value: Any) -> str:
    text = value if value == _ABSENT else json.dumps(value)
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}..."
