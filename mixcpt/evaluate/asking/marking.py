"""The scoring of a text of several sentences. lm-eval runs a copy of this file, so it must not import the project."""

import re
from collections.abc import Mapping, Sequence


def stated_value(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Return 1 if a text states a fact: a sentence names the relation, and every such sentence ends with the value.

    Args:
        doc: The item's row, with `relation` and `gold`.
        results: The text written by the model, as a list of one.
    """
    sentences = [sentence.split() for sentence in re.split(r"[.\n]", results[0].replace(",", " "))]
    values = [words[-1] for words in sentences if doc["relation"] in words]
    return {"exact_match": float(bool(values) and all(value == doc["gold"] for value in values))}
