"""The fact ledger: every combination of answers has a state, and every fact its documents."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mixcpt.errors import DataError
from mixcpt.evaluate.asking.manifest import FILE, Manifest, TaskManifest
from mixcpt.evaluate.statistics.ledger import LIKELIER_NATS, STATES, counts, ledger, states
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey


def test_states_cover_every_case() -> None:
    cases = [  # right before, right after, nats moved
        (True, True, -5.0, "known"),
        (False, True, 5.0, "learned"),
        (True, False, -5.0, "forgotten"),
        (True, False, 5.0, "forgotten"),
        (False, False, LIKELIER_NATS + 0.1, "half-learned"),
        (False, False, -LIKELIER_NATS - 0.1, "contradicted"),
        (False, False, 0.9, "unchanged"),
        (False, False, -0.9, "unchanged"),
    ]
    before, after, moved, expected = zip(*cases, strict=True)
    assert states(np.array(before), np.array(after), np.array(moved)) == list(expected)
    assert set(expected) == set(STATES) - {"at chance"}


def test_ledger_calls_no_guess_learned_or_forgotten(tmp_path: Path) -> None:
    def answers(name: str, right: set[int]) -> ArtifactRef:
        items = [(f"q{n:02}", f"v/{n}", float(n in right), -2.0) for n in range(40)]
        return evaluation(tmp_path, name, items, chance=0.25)

    guesses, others, all_right = (
        answers("a", set(range(10))),
        answers("b", set(range(8, 18))),
        answers("c", set(range(40))),
    )
    corpus = corpus_of(tmp_path, [])
    assert set(ledger(guesses, others, corpus)["state"]) == {"at chance"}
    assert set(ledger(guesses, all_right, corpus)["state"]) == {"learned"}  # right guesses were no knowledge
    assert ledger(all_right, guesses, corpus)["state"].tolist() == ["forgotten"] * 40
    free = evaluation(tmp_path, "free", [(f"q{n}", f"v/{n}", float(n < 10), -2.0) for n in range(40)])
    assert set(ledger(free, free, corpus)["state"]) == {"known", "unchanged"}


def test_ledger_joins_answers_by_question_and_names_the_documents(tmp_path: Path) -> None:
    base = evaluation(tmp_path, "base", [("q1", "v/A", 0, -6.0), ("q2", "v/A", 1, -0.1), ("q3", "v/B", 0, -3.0)])
    model = evaluation(tmp_path, "model", [("q3", "v/B", 0, -1.0), ("q1", "v/A", 1, -0.2), ("q2", "v/A", 0, -2.0)])
    corpus = corpus_of(tmp_path, ["src/v/A/0", "src/v/A/1", "src/v/AB/0", "src/v/B"])
    rows = ledger(base, model, corpus)
    assert rows["fact"].tolist() == ["fact of q1", "fact of q2", "fact of q3"]
    assert rows["state"].tolist() == ["learned", "forgotten", "half-learned"]
    assert rows["documents"].tolist() == [["src/v/A/0", "src/v/A/1"]] * 2 + [["src/v/B"]]
    assert rows["log_prob_before"].tolist() == [-6.0, -0.1, -3.0]
    assert rows["log_prob_after"].tolist() == [-0.2, -2.0, -1.0]
    counted = counts(rows)
    assert counted.loc["use"].to_dict() == dict.fromkeys(STATES, 0) | {"learned": 1, "forgotten": 1, "half-learned": 1}


def test_ledger_leaves_texts_without_a_right_answer_out(tmp_path: Path) -> None:
    base = evaluation(tmp_path, "base", [("q1", "v/A", 0, -6.0), ("text", "v/A", 12, None)])
    rows = ledger(base, base, corpus_of(tmp_path, ["src/other"]))
    assert rows["state"].tolist() == ["unchanged"]
    assert rows["documents"].tolist() == [[]]


def test_ledger_has_no_half_learned_state_without_a_log_probability() -> None:
    assert states(np.array([False, True]), np.array([False, True]), np.array([np.nan] * 2)) == ["unchanged", "known"]


def test_ledger_refuses_evaluations_of_different_items(tmp_path: Path) -> None:
    base, other = (evaluation(tmp_path, name, [(name, "v/A", 0, -6.0)]) for name in ("q1", "q2"))
    with pytest.raises(DataError, match=r"cannot be compared: tasks\.use\.items"):
        ledger(base, other, corpus_of(tmp_path, []))


def evaluation(
    folder: Path, name: str, items: list[tuple[str, str, float, float | None]], *, chance: float = 0.0
) -> ArtifactRef:
    rows: list[dict[str, Any]] = [
        {"task": "use", "item_id": item, "passage": passage, "fact": f"fact of {item}", "group": "domain"}
        | {"metric": "bits_per_byte" if log_prob is None else "accuracy"}
        | {"value": float(value), "prompt": f"{item}?", "answer": "x", "gold": "y", "gold_log_prob": log_prob}
        | {"chance": chance}
        for item, passage, value, log_prob in items
    ]
    asked = TaskManifest(
        definition={},
        items=json.dumps(sorted(item for item, *_ in items)),
        num_items=len(items),
        form="plain",
        first_token="bos",
        answer_delimiter="",
    )

    def build(directory: Path) -> dict[str, float]:
        pd.DataFrame(rows).to_parquet(directory / "items.parquet")
        (directory / FILE).write_text(json.dumps(Manifest("all", "", {"use": asked}, {}).to_json()))
        return {}

    return ArtifactStore(folder / "store").produce(StageKey("evaluation", 1, [name, len(items)]), build)


def corpus_of(folder: Path, ids: list[str]) -> ArtifactRef:
    def build(directory: Path) -> dict[str, float]:
        pd.DataFrame({"doc_id": ids, "source": ["src"] * len(ids)}).to_parquet(directory / "documents.parquet")
        return {}

    return ArtifactStore(folder / "store").produce(StageKey("corpus", 1, ids), build)
