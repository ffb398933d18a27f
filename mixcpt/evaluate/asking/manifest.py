"""How exactly a model was asked: what has to be equal before two results may be compared.

Items, lm-eval definitions (few-shot examples, generation settings, filters and metrics are part of them), prompt form,
chat template, beginning-of-text rule, split and libraries. Neither the model's weights nor the batch size.
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
"""Whose versions can change an answer."""
_SHOWN = 60
_OF_FORM = ("form", "chat_template", "first_token", "answer_delimiter")
"""What follows from the prompt form, and may differ where a base without chat form stands beside a chat model."""


@dataclass(frozen=True)
class TaskManifest:
    """How one task was put."""

    definition: Mapping[str, Any]
    """Of lm-eval, with the place of its data relative to the artifact."""
    items: str
    """Digest of the items."""
    num_items: int
    form: str
    """`plain` or `chat`."""
    first_token: str
    """`bos`, where a prompt starts with one; `none`, where the tokenizer has none; `template`, which writes its own."""
    answer_delimiter: str
    """White space that the chat form puts before an answer."""


@dataclass(frozen=True)
class Manifest:
    """How one model was asked everything."""

    split: str
    chat_template: str
    """Its text; empty where no task was put through it."""
    tasks: Mapping[str, TaskManifest]
    libraries: Mapping[str, str]

    @property
    def digest(self) -> str:
        return fingerprint(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, evaluation: ArtifactRef) -> "Manifest":
        """Returns the manifest of an evaluation."""
        data = json.loads(evaluation.file(FILE).read_text(encoding="utf-8"))
        return cls(**{**data, "tasks": {name: TaskManifest(**task) for name, task in data["tasks"].items()}})


def require_equal(first: ArtifactRef, second: ArtifactRef, *, across_forms: bool = False) -> None:
    """Proves that two evaluations asked in the same way.

    Args:
        first: One evaluation.
        second: The other.
        across_forms: Whether they may differ in prompt form, for a base that knows no chat.

    Raises:
        DataError: If they differ; it says in what.
    """
    ours, theirs = Manifest.of(first).to_json(), Manifest.of(second).to_json()
    differences = [
        difference
        for difference in _differences(ours, theirs, "")
        if not (across_forms and difference.path.rpartition(".")[2] in _OF_FORM)
    ]
    if differences:
        raise DataError(
            f"the evaluations {first.path} and {second.path} cannot be compared: " + "; ".join(map(str, differences)),
            "evaluate both models with the same tasks, prompt form, template, split and libraries",
        )


@dataclass(frozen=True)
class _Difference:
    path: str
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.path} is {_short(self.first)} in the first, {_short(self.second)} in the second"


_ABSENT = "absent"


def _differences(first: Any, second: Any, path: str) -> Iterator[_Difference]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for name in dict.fromkeys([*first, *second]):
            below = f"{path}.{name}" if path else name
            yield from _differences(first.get(name, _ABSENT), second.get(name, _ABSENT), below)
    elif first != second:
        yield _Difference(path, first, second)


def _short(value: Any) -> str:
    text = value if value == _ABSENT else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
