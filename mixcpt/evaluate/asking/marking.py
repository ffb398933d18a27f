"""How a text of several sentences is marked; lm-eval runs this file by itself, so it imports nothing of the project."""

import re
from collections.abc import Mapping, Sequence


def stated_value(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Returns whether a text states a fact: every sentence that names the relation ends with the value, and one does.

    Args:
        doc: The row of the item, with `relation` and `gold`.
        results: The text that the model wrote.
    """
    sentences = [sentence.split() for sentence in re.split(r"[.\n]", results[0].replace(",", " "))]
    stated = [words[-1] for words in sentences if doc["relation"] in words]
    return {"exact_match": float(bool(stated) and all(word == doc["gold"] for word in stated))}
