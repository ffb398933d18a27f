"""The account of a rewriting: texts and rejections by form, cost, and every text with its outcome."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mixcpt.rewrite.texts import Text
from mixcpt.store.artifacts import ArtifactRef, from_fields

FILE = "rewriting.json"
TEXTS = "texts.parquet"
_EXAMPLES = 3
"""Number of rejected texts per rule in the account."""


@dataclass(frozen=True, kw_only=True)
class FormAccount:
    """Texts of one form."""

    accepted: int
    rejected: Mapping[str, int]
    """Number of rejected texts by rule."""
    characters: int
    """Length of the accepted texts."""


@dataclass(frozen=True, kw_only=True)
class RewriteAccount:
    """Texts, rejections and cost of a rewriting."""

    forms: Mapping[str, FormAccount] = field(default_factory=dict)
    examples: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict)
    """The first rejected texts by rule, each with `id`, `text` and `detail`."""
    document_characters: int = 0
    """Length of the documents that the texts are about."""
    tokens_read: int = 0
    """Tokens of all prompts, also to the judge."""
    tokens_written: int = 0
    reused: int = 0
    """Number of answers that the store had already."""
    money: float = 0.0
    """Price of the tokens, by the prices of the generator."""

    @property
    def accepted(self) -> int:
        return sum(form.accepted for form in self.forms.values())

    @property
    def rejected(self) -> int:
        return sum(sum(form.rejected.values()) for form in self.forms.values())

    @property
    def amount(self) -> float:
        """Length of the accepted texts relative to that of the documents."""
        return sum(form.characters for form in self.forms.values()) / max(self.document_characters, 1)

    @classmethod
    def of(cls, rewritten: ArtifactRef) -> "RewriteAccount":
        """Return the account of a rewritten corpus."""
        data = json.loads(rewritten.file(FILE).read_text(encoding="utf-8"))
        forms = {name: from_fields(FormAccount, form) for name, form in data["forms"].items()}
        return from_fields(cls, data, forms=forms)


def write_account(
    folder: Path, texts: Sequence[Text], *, document_characters: int, usage: Mapping[str, int], money: float
) -> dict[str, Any]:
    """Write account and texts into `folder`, and return the numbers for the record of the artifact."""
    account = RewriteAccount(
        forms={name: _form(texts, name) for name in dict.fromkeys(text.request.form.name for text in texts)},
        examples=_examples(texts),
        document_characters=document_characters,
        money=money,
        **usage,
    )
    (folder / FILE).write_text(json.dumps(asdict(account), indent=2, ensure_ascii=False), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist([_row(text) for text in texts]), folder / TEXTS, compression="zstd")
    numbers = (
        "document_characters",
        "tokens_read",
        "tokens_written",
        "reused",
        "money",
        "accepted",
        "rejected",
        "amount",
    )
    return {name: getattr(account, name) for name in numbers}


def _form(texts: Sequence[Text], name: str) -> FormAccount:
    of_form = [text for text in texts if text.request.form.name == name]
    accepted = [text for text in of_form if text.rejection is None]
    return FormAccount(
        accepted=len(accepted),
        rejected=dict(Counter(text.rejection.rule for text in of_form if text.rejection)),
        characters=sum(len(text.text) for text in accepted),
    )


def _examples(texts: Sequence[Text]) -> dict[str, list[dict[str, str]]]:
    examples: dict[str, list[dict[str, str]]] = {}
    for text in texts:
        if text.rejection and len(examples.setdefault(text.rejection.rule, [])) < _EXAMPLES:
            examples[text.rejection.rule].append({"id": text.id, "text": text.text, "detail": text.rejection.detail})
    return examples


def _row(text: Text) -> dict[str, Any]:
    document = text.request.passage.document
    return {
        "id": text.id,
        "document": document.id,
        "source": document.source,
        "form": text.request.form.name,
        "text": text.text,
        "rule": text.rejection.rule if text.rejection else "",
        "detail": text.rejection.detail if text.rejection else "",
    }
