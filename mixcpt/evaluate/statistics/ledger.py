"""The fact ledger: the change of every fact, in every way of asking for it, and the documents that state it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mixcpt.evaluate.asking.items import own_id
from mixcpt.evaluate.asking.manifest import require_equal
from mixcpt.evaluate.guessing import is_at_chance
from mixcpt.evaluate.shown import shown_items
from mixcpt.store.artifacts import ArtifactRef

if TYPE_CHECKING:
    from pandas import DataFrame

State = Literal["known", "learned", "half-learned", "unchanged", "contradicted", "forgotten", "at chance"]
MEANINGS: Mapping[State, str] = {
    "known": "right before and after",
    "learned": "wrong before, right now",
    "half-learned": "still wrong, but the right answer has become likelier",
    "unchanged": "wrong before and after, the right answer about as likely",
    "contradicted": "wrong before and after, and the right answer has become less likely",
    "forgotten": "right before, wrong now",
    "at chance": "of a task on which neither model does better than guessing, so a right answer says nothing",
}
STATES = tuple(MEANINGS)
LIKELIER_NATS = 1.0
"""Minimum change of the correct answer's log-probability that counts as a change of a wrong answer: a factor of e."""


def ledger(base: ArtifactRef, model: ArtifactRef, corpus: ArtifactRef) -> "DataFrame":
    """Return one row per fact and way of asking, before (`base`) and after training (`model`), the domain's first.

    Columns: fact, task, group, passage, question, gold, before, after (the answers), right_before, right_after,
    log_prob_before, log_prob_after (of the correct answer, nats), state, documents (ids of the training documents about
    the passage).

    Raises `DataError` if the two evaluations ran under different conditions.
    """
    import pandas as pd

    require_equal(base, model, across_forms=True)
    before, after = (_questions(ref) for ref in (base, model))
    table = before.join(after, lsuffix="_before", rsuffix="_after", how="inner")
    right_before, right_after = (table[f"value_{side}"].to_numpy() == 1 for side in ("before", "after"))
    moved = (table["gold_log_prob_after"] - table["gold_log_prob_before"]).to_numpy(dtype=float)
    documents = _documents(corpus)
    table = table.reset_index()
    rows = pd.DataFrame(
        {
            "fact": table["fact_before"],
            "task": table["task"],
            "group": table["group_before"],
            "passage": table["passage_before"],
            "question": table["question_before"],
            "gold": table["gold_before"],
            "before": table["shown_answer_before"],
            "after": table["shown_answer_after"],
            "right_before": right_before,
            "right_after": right_after,
            "log_prob_before": table["gold_log_prob_before"].to_numpy(dtype=float),
            "log_prob_after": table["gold_log_prob_after"].to_numpy(dtype=float),
            "state": _states(table, right_before, right_after, moved),
            "documents": [documents.get(passage, []) for passage in table["passage_before"]],
        }
    )
    return rows.sort_values(["group", "passage", "fact", "task"], ignore_index=True)  # "domain" sorts before "general"


def _states(table: "DataFrame", right_before: Any, right_after: Any, moved: Any) -> list[State]:
    """Return the states of facts; a right answer counts only if its model is better than guessing on the task."""
    tasks = table["task"].to_numpy()
    guessed = {side: _guessed_tasks(table, side) for side in ("before", "after")}
    before, after = (
        right & ~np.isin(tasks, list(guessed[side]))
        for side, right in (("before", right_before), ("after", right_after))
    )
    is_guessed = np.isin(tasks, list(guessed["before"] & guessed["after"]))
    found = zip(states(before, after, moved), is_guessed, strict=True)
    return ["at chance" if guess else state for state, guess in found]


def _guessed_tasks(table: "DataFrame", side: str) -> set[str]:
    """Return the tasks on which the answers of one side are not better than guessing."""
    return {
        str(task)
        for task, rows in table.groupby("task", sort=False)
        if is_at_chance(
            "accuracy",
            value=float(rows[f"value_{side}"].mean()),
            passages=rows[f"passage_{side}"].nunique(),
            chance=float(rows[f"chance_{side}"].mean()),
        )
    }


def states(before: Any, after: Any, moved: Any) -> list[State]:
    """Return the states of facts, from three arrays with one value per fact.

    They are whether the answer was correct `before` training, whether it is `after` it, and the change of the correct
    answer's log-probability in nats (`moved`; NaN if it is not a single text).
    """
    conditions: Mapping[State, Any] = {
        "known": before & after,
        "learned": ~before & after,
        "forgotten": before & ~after,
        "half-learned": moved > LIKELIER_NATS,
        "contradicted": moved < -LIKELIER_NATS,
    }
    names = np.select(list(conditions.values()), list(conditions), "unchanged")
    return [str(name) for name in names]  # type: ignore[misc]


def counts(rows: "DataFrame") -> "DataFrame":
    """Return the number of facts per state: one row per task, one column per state."""
    import pandas as pd

    table = pd.crosstab(rows["task"], rows["state"]).reindex(columns=list(STATES), fill_value=0)
    return table.loc[list(dict.fromkeys(rows["task"]))]


def _questions(evaluation: ArtifactRef) -> "DataFrame":
    return shown_items(evaluation).set_index(["task", "item_id"])


def _documents(corpus: ArtifactRef) -> Mapping[str, list[str]]:
    """Return the ids of the training documents about each passage.

    The id of a document's record is the passage's name, or that name, a slash and a suffix.
    """
    import pandas as pd

    table = pd.read_parquet(corpus.file("documents.parquet"), columns=["doc_id", "source"])
    documents: dict[str, list[str]] = {}
    for doc_id, source in table.itertuples(index=False):
        name = own_id(doc_id, source)
        for passage in {name, name.rpartition("/")[0]} - {""}:
            documents.setdefault(passage, []).append(doc_id)
    return documents
