"""Real questions and a real model: files are read without loss, and lm-eval on its own gives the same answers."""

import json
from pathlib import Path

import pytest

from mixcpt.config import BaseModelConfig, EvaluateConfig, MultipleChoiceTask
from mixcpt.evaluate import check_tasks, evaluate
from mixcpt.evaluate.asking.tasks import read_tasks
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import resolve_model
from mixcpt.store.spool import NullTracker

NO_CORPUS = ArtifactRef("corpus", "0" * 64, "0" * 64, "/nowhere")


def test_real_question_files_are_read_whole_but_for_repeated_choices(shared_data: Path) -> None:
    config = benchmarks(shared_data, limit=0)
    assert check_tasks(config) == []
    anatomy, arc, sciq = read_tasks(config, NO_CORPUS, seed=0)
    assert [len(task.items) for task in (anatomy, arc, sciq)] == [708, 2376, 998]
    assert not (anatomy.quarantined or arc.quarantined)
    assert len(sciq.quarantined) == 2  # a wrong choice repeats another choice
    prompts = [item.prompt for item in (*anatomy.items, *arc.items, *sciq.items)]
    assert all(prompt.startswith("Question: ") and prompt.count("Answer:") == 1 for prompt in prompts)


def test_real_small_model_is_near_chance_and_plain_lm_eval_agrees(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = resolve_model(BaseModelConfig(model=str(shared_data / "models" / "TinyStories-656K")))
    store = ArtifactStore(tmp_path / "store")
    config = benchmarks(shared_data, limit=40)
    ref = evaluate(config, model, NO_CORPUS, form="plain", seed=0, store=store, tracker=NullTracker())
    tasks = json.loads(ref.file("summary.json").read_text())["tasks"]
    assert [(task["n"], task["truncated"], task["quarantined"]) for task in tasks] == [
        (40, 0, number) for number in (0, 0, 2)
    ]
    assert all(0.05 <= task["value"] <= 0.55 for task in tasks)

    from lm_eval.evaluator import evaluate as lm_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.chdir(ref.path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    loaded = TaskManager(include_path="tasks", include_defaults=False).load([task["task"] for task in tasks])
    results = lm_evaluate(
        HFLM(pretrained=model.path, device="cpu", dtype="float32", batch_size=16), loaded, bootstrap_iters=0
    )["results"]
    assert {task["task"]: task["value"] for task in tasks} == {
        name: pytest.approx(result["acc,none"]) for name, result in results.items()
    }


def benchmarks(shared_data: Path, *, limit: int) -> EvaluateConfig:
    folder = shared_data / "benchmarks"
    anatomy = MultipleChoiceTask(
        name="anatomy",
        group="domain",
        path=str(shared_data / "medicine" / "anatomy-physiology.mcq.jsonl"),
        limit=limit,
    )
    arc = MultipleChoiceTask(
        name="arc_easy",
        group="general",
        path=str(folder / "arc_easy_test.jsonl"),
        question_field="query",
        answer_field="gold",
        limit=limit,
    )
    sciq = MultipleChoiceTask(
        name="sciq",
        group="general",
        path=str(folder / "sciq_validation.jsonl"),
        answer_field="correct_answer",
        distractor_fields=("distractor1", "distractor2", "distractor3"),
        limit=limit,
    )
    return EvaluateConfig(tasks=(anatomy, arc, sciq), headline_domain="anatomy", headline_general="sciq")
