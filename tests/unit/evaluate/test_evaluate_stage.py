"""The evaluation stage: its files agree, and its identity covers everything that can change an answer."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
import torch

from mixcpt.config import (
    SHIPPED_TEXT,
    BitsPerByteTask,
    ClosedWorldTask,
    EvaluateConfig,
    MultipleChoiceTask,
    Task,
)
from mixcpt.evaluate import drift, evaluate
from mixcpt.evaluate.asking.manifest import Manifest
from mixcpt.evaluate.asking.tasks import read_tasks
from mixcpt.evaluate.summary import EvaluationSummary
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import NullTracker
from tests.unit.planted_models import CONTEXT_TOKENS, load, log_likelihood, plant, sentence

NO_CORPUS = ArtifactRef("corpus", "0" * 64, "0" * 64, "/nowhere")


@pytest.fixture(scope="module")
def planted_model(tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return plant(tiny_model, tmp_path_factory.mktemp("planted") / "planted")


def test_evaluate_writes_items_and_summary_that_agree(tiny_model: ModelRef, tmp_path: Path) -> None:
    ref = run(tiny_model, tmp_path, [choices_task(tmp_path), heldout_task()])
    items = pd.read_parquet(ref.file("items.parquet"))
    assert list(items.columns) == [
        *("task", "item_id", "passage", "fact", "group", "metric", "value", "weight", "prompt", "answer", "gold"),
        *("chance", "gold_log_prob", "gold_bytes", "kl_to_reference"),
    ]
    summary = json.loads(ref.file("summary.json").read_text())
    assert (summary["form"], summary["model"]) == ("plain", {"name": tiny_model.name, "digest": tiny_model.digest})
    keyed, texts = summary["tasks"]
    keyed_items, text_items = (items[items["task"] == task["task"]] for task in (keyed, texts))
    assert (keyed["metric"], keyed["higher_is_better"], keyed["n"], keyed["quarantined"]) == ("accuracy", True, 10, 1)
    assert keyed["value"] == pytest.approx(keyed_items["value"].mean())
    assert keyed["stderr"] == pytest.approx(keyed_items["value"].sem())
    assert (texts["metric"], texts["higher_is_better"], texts["n"]) == ("bits_per_byte", False, 2)
    assert texts["value"] == pytest.approx(text_items["value"].sum() / text_items["weight"].sum())
    assert ref.record["metrics"]["eval/keyed/accuracy"] == keyed["value"]
    (bad,) = pd.read_parquet(ref.file("quarantine.parquet")).to_dict("records")
    assert (bad["task"], bad["line"], bad["field"]) == ("keyed", 11, "answer")


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_evaluate_right_choice_has_the_log_probability_that_lm_eval_gives_it(
    tiny_model: ModelRef, tmp_path: Path, form: Literal["plain", "chat"]
) -> None:
    ref = run(tiny_model, tmp_path, [choices_task(tmp_path)], form=form)
    items = pd.read_parquet(ref.file("items.parquet"))
    network, tokenizer = load(tiny_model)
    for item in items.itertuples():
        start = [1] if form == "plain" else []
        context = start + tokenizer.encode(item.prompt, add_special_tokens=False)
        expected = log_likelihood(network, context, tokenizer.encode(item.gold, add_special_tokens=False))
        assert item.gold_log_prob == pytest.approx(expected, abs=1e-4)
        assert item.gold_bytes == len(item.gold.encode())


def test_evaluate_against_a_reference_measures_the_drift(
    tiny_model: ModelRef, planted_model: ModelRef, tmp_path: Path
) -> None:
    def drift_of(model: ModelRef, reference: ModelRef | None) -> pd.Series:
        found = run(model, tmp_path, [choices_task(tmp_path), heldout_task()], reference=reference)
        items = pd.read_parquet(found.file("items.parquet"))
        return items[items["task"] == "keyed"]["kl_to_reference"]

    assert drift_of(tiny_model, None).isna().all()
    assert (drift_of(tiny_model, tiny_model).abs() < 1e-6).all()
    assert (drift_of(planted_model, tiny_model) > 0.1).all()


def test_evaluate_against_a_reference_measures_the_drift_on_general_texts(
    tiny_model: ModelRef, planted_model: ModelRef, tmp_path: Path
) -> None:
    texts = [sentence(1), " ".join(sentence(n) for n in range(80))]  # the second exceeds the context
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    general = BitsPerByteTask(name="general", group="general", path=str(path))
    ref = run(planted_model, tmp_path, [general, heldout_task()], form="chat", reference=tiny_model)
    items = pd.read_parquet(ref.file("items.parquet")).set_index("task")["kl_to_reference"]
    assert items["texts"].isna().all()
    (model, tokenizer), (reference, _) = load(planted_model), load(tiny_model)
    expected = [mean_kl(reference, model, [1, *tokenizer.encode(text, add_special_tokens=False)]) for text in texts]
    assert list(items["general"]) == pytest.approx(expected, rel=1e-4)
    score = EvaluationSummary.of(ref).by_task["general"]
    assert score.kl_to_base == pytest.approx(sum(expected) / 2, rel=1e-4)
    assert [(found.task, found.nats) for found in drift(ref)] == [("general", pytest.approx(score.kl_to_base))]
    assert EvaluationSummary.of(run(planted_model, tmp_path, [general])).by_task["general"].kl_to_base is None


def test_evaluate_summary_has_the_chance_level(tiny_model: ModelRef, tmp_path: Path) -> None:
    world = ClosedWorldTask(name="world", limit=3)
    tasks = EvaluationSummary.of(run(tiny_model, tmp_path, [choices_task(tmp_path), heldout_task(), world])).by_task
    assert {name: score.chance for name, score in tasks.items()} == {
        "keyed": pytest.approx(1 / 3),
        "texts": None,
        "world": 0,
    }
    assert not tasks["texts"].is_at_chance
    assert not tasks["world"].is_at_chance


def test_evaluate_shipped_text_is_general_prose_with_enough_passages(tiny_model: ModelRef, tmp_path: Path) -> None:
    shipped = BitsPerByteTask(name="general", group="general", path=SHIPPED_TEXT, limit=0)
    (task,) = read_tasks(
        EvaluateConfig(tasks=(shipped,), headline_domain="general", headline_general="general"), NO_CORPUS, seed=0
    )
    assert len(task.items) == 60
    assert all(400 <= len(item.prompt) <= 900 for item in task.items)
    assert len({item.prompt for item in task.items}) == 60
    assert not task.quarantined


def mean_kl(reference: Any, model: Any, tokens: list[int]) -> float:
    """Return the mean KL(reference || model) over all predicted tokens, in windows that overlap by one token."""
    sums, count = 0.0, 0
    for start in range(0, len(tokens) - 1, CONTEXT_TOKENS - 1):
        window = torch.tensor([tokens[start : start + CONTEXT_TOKENS]])
        with torch.no_grad():
            q, p = (network(window).logits[0, :-1].double().log_softmax(-1) for network in (reference, model))
        sums += float((q.exp() * (q - p)).sum())
        count += len(q)
    return sums / count


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_evaluate_shows_examples_with_their_answers_before_each_question(
    tiny_model: ModelRef, tmp_path: Path, form: Literal["plain", "chat"]
) -> None:
    task = choices_task(tmp_path).model_copy(update={"num_fewshot": 2})
    ref = run(tiny_model, tmp_path, [task], form=form)
    (asked,) = read_tasks(EvaluateConfig(tasks=(task,), headline_domain="keyed", headline_general="keyed"), ref, seed=0)
    prompts = pd.read_parquet(ref.file("items.parquet"))["prompt"]
    shown = [f"{example.prompt} {example.gold}" for example in asked.examples]
    if form == "chat":
        _, tokenizer = load(tiny_model)
        turns = []
        for example in asked.examples:
            turns += [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.gold}]
        shown = [tokenizer.apply_chat_template(turns, tokenize=False)]
    assert len(prompts) == 8
    for prompt in prompts:
        places = [prompt.index(text) for text in shown]
        assert places == sorted(places)
        assert prompt.count("Answer:") == 3


def test_evaluate_manifest_describes_both_forms(tiny_model: ModelRef, tmp_path: Path) -> None:
    tasks = [choices_task(tmp_path), heldout_task()]
    plain, chat = (Manifest.of(run(tiny_model, tmp_path, tasks, form=form)) for form in ("plain", "chat"))
    _, tokenizer = load(tiny_model)
    assert (plain.chat_template, chat.chat_template) == ("", tokenizer.chat_template)
    assert [plain.tasks["keyed"].first_token, chat.tasks["keyed"].first_token] == ["bos", "template"]
    assert chat.tasks["texts"] == plain.tasks["texts"]
    assert plain.tasks["keyed"].num_items == 10
    assert plain.digest != chat.digest
    assert plain.libraries.keys() == {"lm-eval", "transformers"}


def test_evaluate_is_reused_if_only_paths_and_report_settings_change(tiny_model: ModelRef, tmp_path: Path) -> None:
    tasks = [choices_task(tmp_path)]
    first = run(tiny_model, tmp_path, tasks)
    assert not first.reused
    moved = tmp_path / "elsewhere.jsonl"
    shutil.copy(tasks[0].path, moved)
    elsewhere = tasks[0].model_copy(update={"path": str(moved)})
    report = {"confidence": 0.8, "num_resamples": 10, "num_examples": 3, "aligned_form": "plain", "batch_size": 3}
    renamed = ModelRef("another-name", tiny_model.path, tiny_model.digest)
    again = run(renamed, tmp_path, [elsewhere], documents=("other", "documents"), seed=5, **report)
    assert again.reused
    assert again == first


def test_evaluate_runs_again_if_an_answer_could_change(tiny_model: ModelRef, tmp_path: Path) -> None:
    tasks = [choices_task(tmp_path), heldout_task()]
    fingerprints = {run(tiny_model, tmp_path, tasks).fingerprint}
    other_model = ModelRef(tiny_model.name, tiny_model.path, "f" * 64)
    fingerprints.add(run(other_model, tmp_path, tasks).fingerprint)
    fingerprints.add(run(tiny_model, tmp_path, tasks, form="chat").fingerprint)
    fingerprints.add(run(tiny_model, tmp_path, tasks, documents=("Alda is gold .", "Cira was red .")).fingerprint)
    fingerprints.add(run(tiny_model, tmp_path, tasks[:1]).fingerprint)
    limited = tasks[0].model_copy(update={"limit": 5})
    fingerprints.add(run(tiny_model, tmp_path, [limited], seed=1).fingerprint)
    fingerprints.add(run(tiny_model, tmp_path, [limited], seed=2).fingerprint)
    path = Path(tasks[0].path)
    path.write_text(path.read_text().replace("owl", "heron"))
    fingerprints.add(run(tiny_model, tmp_path, tasks).fingerprint)
    assert len(fingerprints) == 8


def run(
    model: ModelRef,
    folder: Path,
    tasks: list[Task],
    *,
    form: Literal["plain", "chat"] = "plain",
    seed: int = 0,
    documents: tuple[str, ...] = ("Alda is blue .", "the owl keeps iron ."),
    reference: ModelRef | None = None,
    **settings: Any,
) -> ArtifactRef:
    store = ArtifactStore(folder / "store")

    def write_corpus(directory: Path) -> dict[str, float]:
        rows = [{"doc_id": f"d{n}", "source": "s", "pool": "domain", "text": text} for n, text in enumerate(documents)]
        pd.DataFrame(rows).to_parquet(directory / "heldout.parquet")
        return {}

    corpus = store.produce(StageKey("corpus", 1, list(documents)), write_corpus)
    config = EvaluateConfig(
        tasks=tuple(tasks), headline_domain=tasks[0].name, headline_general=tasks[0].name, **settings
    )
    tracker = NullTracker()
    return evaluate(config, model, corpus, form=form, seed=seed, store=store, tracker=tracker, reference=reference)


def choices_task(folder: Path) -> MultipleChoiceTask:
    rows: list[dict[str, Any]] = [
        {"id": f"i{n}", "question": sentence(n), "choices": ["fox", "owl", "gold iron"], "answer": n % 3}
        for n in range(10)
    ]
    path = folder / "keyed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "id": "bad", "answer": 9}]))
    return MultipleChoiceTask(name="keyed", group="general", path=str(path))


def heldout_task() -> BitsPerByteTask:
    return BitsPerByteTask(name="texts", group="domain", heldout_pool="domain")
