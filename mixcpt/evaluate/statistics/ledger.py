"""The fact ledger: what became of every single fact, in every way it was asked, and which documents taught it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mixcpt.evaluate.asking.items import own_id
from mixcpt.evaluate.asking.manifest import require_equal
from mixcpt.store.artifacts import ArtifactRef

if TYPE_CHECKING:
    from pandas import DataFrame

State = Literal["known", "learned", "half-learned", "unchanged", "contradicted", "forgotten"]
STATES: tuple[State, ...] = ("known", "learned", "half-learned", "unchanged", "contradicted", "forgotten")
MEANINGS: Mapping[State, str] = {
    "known": "right before and after",
    "learned": "wrong before, right now",
    "half-learned": "still wrong, but the right answer has become likelier",
    "unchanged": "wrong before and after, the right answer about as likely",
    "contradicted": "wrong before and after, and the right answer has become less likely",
    "forgotten": "right before, wrong now",
}
LIKELIER_NATS = 1.0
"""By how much the log-probability of the right answer has to move for a wrong answer to count as moved: e-fold."""


def ledger(base: ArtifactRef, model: ArtifactRef, corpus: ArtifactRef) -> "DataFrame":
    """Returns one row a fact and way of asking, the domain's first.

    Columns: fact, task, group, passage, question, gold, before, after (the answers), right_before, right_after,
    log_prob_before, log_prob_after (of the right answer, nats), state, documents (ids of those that training read about
    the passage).

    Args:
        base: The evaluation before.
        model: The evaluation after.
        corpus: What training read.

    Raises:
        DataError: If the two were not asked the same.
    """
    import pandas as pd

    require_equal(base, model, across_forms=True)
    before, after = (_questions(ref) for ref in (base, model))
    table = before.join(after, lsuffix="_before", rsuffix="_after", how="inner")
    right = {side: table[f"value_{side}"].to_numpy() == 1 for side in ("before", "after")}
    moved = (table["gold_log_prob_after"] - table["gold_log_prob_before"]).to_numpy(dtype=float)
    taught = _documents(corpus)
    table = table.reset_index()
    rows = pd.DataFrame(
        {
            "fact": table["fact_before"],
            "task": table["task"],
            "group": table["group_before"],
            "passage": table["passage_before"],
            "question": table["prompt_after"],
            "gold": table["gold_before"],
            "before": table["answer_before"],
            "after": table["answer_after"],
            "right_before": right["before"],
            "right_after": right["after"],
            "log_prob_before": table["gold_log_prob_before"].to_numpy(dtype=float),
            "log_prob_after": table["gold_log_prob_after"].to_numpy(dtype=float),
            "state": states(right["before"], right["after"], moved),
            "documents": [taught.get(passage, []) for passage in table["passage_before"]],
        }
    )
    return rows.sort_values(["group", "passage", "fact", "task"], ignore_index=True)  # domain comes before general


def states(before: Any, after: Any, moved: Any) -> list[State]:
    """Returns what became of each fact.

    Args:
        before: Whether it was answered rightly before.
        after: Whether it is now.
        moved: By how many nats the log-probability of the right answer has changed; NaN where it is not one text.
    """
    conditions: Sequence[tuple[Any, State]] = [
        (before & after, "known"),
        (~before & after, "learned"),
        (before & ~after, "forgotten"),
        (moved > LIKELIER_NATS, "half-learned"),
        (moved < -LIKELIER_NATS, "contradicted"),
    ]
    found = np.select([condition for condition, _ in conditions], [state for _, state in conditions], "unchanged")
    return [str(state) for state in found]  # type: ignore[misc]


def counts(rows: "DataFrame") -> "DataFrame":
    """Returns how many facts are in each state: one row a task, one column a state."""
    import pandas as pd

    table = pd.crosstab(rows["task"], rows["state"]).reindex(columns=list(STATES), fill_value=0)
    return table.loc[list(dict.fromkeys(rows["task"]))]


def _questions(evaluation: ArtifactRef) -> "DataFrame":
    import pandas as pd

    items = pd.read_parquet(evaluation.file("items.parquet"))
    return items[items["metric"] == "accuracy"].set_index(["task", "item_id"])


def _documents(corpus: ArtifactRef) -> Mapping[str, list[str]]:
    """Returns for each passage the ids of the documents that training read about it.

    A document is about the passage that its record's id names, or whose name its id begins with, up to a slash.
    """
    import pandas as pd

    columns = ["doc_id", "source"]
    table = pd.read_parquet(corpus.file("documents.parquet"), columns=columns)
    found: dict[str, list[str]] = {}
    for doc_id, source in table.itertuples(index=False):
        name = own_id(doc_id, source)
        for passage in {name, name.rpartition("/")[0]} - {""}:
            found.setdefault(passage, []).append(doc_id)
    return found
