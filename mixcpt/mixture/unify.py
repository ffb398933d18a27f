"""One plain text form for documents, instructions and preferences: no chat template, no role tokens.

The form is that of Mix-CPT, Jiang et al., arXiv 2407.10804: question, separator, answer
(docs/algorithms.md#knowledge-mixture).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mixcpt.config import MixtureConfig, Pool

_GOOD, _BAD = "Good answer: ", "Bad answer: "


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text to learn from, with the beginning of its scored part."""

    text: str
    scored_from: int = 0
    """Index of the first scored character; 0 scores the whole text."""


def unify(record: Mapping[str, str], pool: Pool, config: MixtureConfig) -> PlainText:
    """Return the plain text of a corpus record."""
    if pool in ("domain", "general"):
        return PlainText(record["text"])
    question = record["prompt"] + config.separator
    scored_from = len(question) if config.loss_on == "response" else 0
    return PlainText(question + _answer(record, pool, config), scored_from)


def _answer(record: Mapping[str, str], pool: Pool, config: MixtureConfig) -> str:
    if pool == "instructions":
        return record["response"]
    if config.preference_text == "chosen":
        return record["chosen"]
    return f"{_GOOD}{record['chosen']}{config.separator}{_BAD}{record['rejected']}"
