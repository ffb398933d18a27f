"""The probe: questions that appear in no report, with the base's answers."""

import json
from itertools import chain
from pathlib import Path

import pandas as pd
import pytest

from mixcpt.config import BaseModelConfig, ClosedWorldTask, EvaluateConfig, MultipleChoiceTask, RetentionConfig
from mixcpt.errors import ConfigError
from mixcpt.evaluate import evaluate
from mixcpt.evaluate.probe import StoredProbe, draw_probe
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import load_model, resolve_model
from mixcpt.store.spool import NullTracker

NO_CORPUS = ArtifactRef("corpus", "", "", "")
PROMISE = RetentionConfig(max_loss=0.2)
TASKS = EvaluateConfig(
    tasks=(
        ClosedWorldTask(name="domain"),
        ClosedWorldTask(name="two_hop", form="two_hop", group="general", about="general_unasked"),
        ClosedWorldTask(name="general", group="general", about="general_unasked"),
    ),
    headline_domain="domain",
    headline_general="general",
    split="report",
)


def test_probe_answers_of_the_base_equal_lm_eval_scores(tmp_path: Path) -> None:
    store, base = ArtifactStore(tmp_path), resolve_model(BaseModelConfig())
    names = ("domain", "two_hop", "general")
    ref = draw_probe(TASKS, PROMISE, names, base, NO_CORPUS, seed=0, store=store)
    known = {(row["task"], row["prompt"]): row["known"] for row in json.loads(ref.file("questions.json").read_text())}
    probing = TASKS.model_copy(update={"split": "probe"})
    answers = evaluate(probing, base, NO_CORPUS, form="plain", seed=0, store=store, tracker=NullTracker())
    items = pd.read_parquet(answers.file("items.parquet"))
    marked = {(row.task, row.prompt): row.value == 1 for row in items.itertuples()}
    assert known == marked
    assert 0 < sum(known.values()) < len(known)
    tallies = StoredProbe(ref, base).ask(load_model(base).eval())
    assert {name: (tally.lost, tally.gained) for name, tally in tallies.items()} == dict.fromkeys(names, (0, 0))


def test_probe_shares_no_passage_with_the_other_splits() -> None:
    from mixcpt.evaluate.asking.tasks import read_tasks

    seen: dict[str, set[str]] = {}
    for split in ("probe", "selection", "report"):
        tasks = read_tasks(TASKS.model_copy(update={"split": split}), NO_CORPUS, seed=0)
        seen[split] = {item.cluster for item in chain.from_iterable(task.items for task in tasks)}
    assert not seen["probe"] & (seen["selection"] | seen["report"])


def test_probe_too_small_to_show_the_promise_is_refused_with_the_number_needed(tmp_path: Path) -> None:
    base = resolve_model(BaseModelConfig())
    with pytest.raises(ConfigError, match=r"two_hop has \d+ probe questions, .* 120 are needed to .* at most 1\.0%"):
        draw_probe(
            TASKS,
            RetentionConfig(max_loss=0.01),
            ("two_hop",),
            base,
            NO_CORPUS,
            seed=0,
            store=ArtifactStore(tmp_path),
        )


def test_probe_of_choices_takes_the_likeliest(tmp_path: Path) -> None:
    base = resolve_model(BaseModelConfig())
    choices = ["fox", "owl"]
    lines = [
        {"id": f"{number}", "question": f"Say the word {word}.\nAnswer:", "choices": choices, "answer": word}
        for number, word in enumerate(choices * 20)
    ]
    path = tmp_path / "choices.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = EvaluateConfig(
        tasks=(MultipleChoiceTask(name="choices", group="general", path=str(path)),),
        headline_domain="choices",
        headline_general="choices",
        split="report",
    )
    store = ArtifactStore(tmp_path / "store")
    ref = draw_probe(config, RetentionConfig(max_loss=0.5), ("choices",), base, NO_CORPUS, seed=0, store=store)
    rows = json.loads(ref.file("questions.json").read_text())
    assert all(len(row["answers"]) == 2 for row in rows)
    probing = config.model_copy(update={"split": "probe"})
    answers = evaluate(probing, base, NO_CORPUS, form="plain", seed=0, store=store, tracker=NullTracker())
    values = pd.read_parquet(answers.file("items.parquet"))["value"]
    assert [row["known"] for row in rows] == (values == 1).tolist()
