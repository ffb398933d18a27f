"""Benchmarks of lm-eval give the answers that lm-eval itself gives, and what cannot be measured is refused by name."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.tasks import TaskManager

from mixcpt.config import BenchmarkTask, EvaluateConfig
from mixcpt.errors import DataError
from mixcpt.evaluate import compare, evaluate
from mixcpt.evaluate.asking.benchmarks import read_benchmark
from mixcpt.evaluate.asking.harness import _LanguageModel
from mixcpt.evaluate.asking.tasks import check_task
from mixcpt.evaluate.summary import EvaluationSummary
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import NullTracker
from tests.unit.planted_models import load, sentence

NO_CORPUS = ArtifactRef("corpus", "0" * 64, "0" * 64, "/nowhere")
CHOICES: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{q}}\nAnswer:",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "{{key}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
COMPLETION: dict[str, Any] = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{q}}",
    "doc_to_target": "{{' ' + options[0]}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.mark.parametrize("num_fewshot", [0, 2])
@pytest.mark.parametrize("scoring", [CHOICES, COMPLETION], ids=["choices", "completion"])
def test_benchmark_gives_the_answers_of_lm_eval(
    tiny_model: ModelRef, tmp_path: Path, scoring: dict[str, Any], num_fewshot: int
) -> None:
    task = benchmark(tmp_path, num_fewshot=num_fewshot, description="Answer the questions.\n\n", **scoring)
    answers = pd.read_parquet(run(tiny_model, tmp_path, task).file("items.parquet"))
    network, tokenizer = load(tiny_model)
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    definition = yaml.safe_load((tmp_path / "tasks" / "own_quiz.yaml").read_text()) | {"num_fewshot": num_fewshot}
    if num_fewshot:
        definition["fewshot_config"] = {"sampler": "first_n", "samples": shown_examples(task)}
    native = manager.load([definition])["tasks"]["own_quiz"]
    model = _LanguageModel(network, tokenizer, 8, starts_with_bos=True, is_chat=False)
    result = lm_evaluate(model, {"tasks": {"own_quiz": native}}, bootstrap_iters=0, log_samples=True)
    samples = sorted(result["samples"]["own_quiz"], key=lambda sample: sample["doc_id"])
    assert len(answers) == len(samples) == 12
    assert list(answers["value"]) == [float(sample["acc"]) for sample in samples]
    assert list(answers["prompt"]) == [sample["arguments"][0][0] for sample in samples]
    gold = [sample["filtered_resps"][sample["doc"]["key"] if scoring is CHOICES else 0][0] for sample in samples]
    assert list(answers["gold_log_prob"]) == pytest.approx(gold, abs=1e-3)


def test_benchmark_has_chance_level_and_paired_change(tiny_model: ModelRef, tmp_path: Path) -> None:
    ref = run(tiny_model, tmp_path, benchmark(tmp_path, **CHOICES))
    score = EvaluationSummary.of(ref).by_task["quiz"]
    assert (score.group, score.metric, score.n, score.chance) == ("general", "accuracy", 12, pytest.approx(1 / 3))
    (change,) = compare(ref, ref, confidence=0.95, num_resamples=50, seed=0)
    assert change.low < change.delta == 0 < change.high


def test_benchmark_limit_draws_from_all_questions(tiny_model: ModelRef, tmp_path: Path) -> None:
    answers = pd.read_parquet(
        run(tiny_model, tmp_path, benchmark(tmp_path, **CHOICES).model_copy(update={"limit": 5})).file("items.parquet")
    )
    assert len(answers) == 5
    assert set(answers["item_id"]) < {f"own_quiz:{number}" for number in range(1, 13)}


@pytest.mark.parametrize(
    ("settings", "name", "problem"),
    [
        (CHOICES, "own_quizz", r"own_quizz is not a benchmark of .*(.|\n)*did you mean own_quiz\?"),
        ({**CHOICES, "output_type": "generate_until"}, "own_quiz", "has the output type generate_until; only"),
        ({**CHOICES, "dataset_kwargs": {"data_files": {"test": "absent.jsonl"}}}, "own_quiz", "cannot be loaded"),
        ({**CHOICES, "doc_to_target": "{{q}}"}, "own_quiz", "no usable question: doc_to_target is '"),
    ],
    ids=["unknown", "generate", "no data", "no key"],
)
def test_benchmark_that_cannot_be_measured_is_refused_before_work(
    tmp_path: Path, settings: dict[str, Any], name: str, problem: str
) -> None:
    task = benchmark(tmp_path, **settings).model_copy(update={"benchmark": name})
    checked = check_task(task, "evaluate.tasks[3]")
    assert checked.problem is not None
    assert checked.problem.problem.startswith("evaluate.tasks[3].benchmark: ")
    with pytest.raises(DataError, match=problem):
        read_benchmark(task)


def test_benchmark_name_of_lm_eval_with_a_typing_error_gets_suggestions() -> None:
    with pytest.raises(DataError, match=r"arc_eazy is not a benchmark of lm-eval(.|\n)*did you mean arc_easy"):
        read_benchmark(BenchmarkTask(name="arc", benchmark="arc_eazy"))


def test_benchmark_over_a_public_file_is_read(tmp_path: Path) -> None:
    path = Path(__file__).parents[4] / "shared" / "data" / "benchmarks" / "arc_easy_test.jsonl"
    if not path.is_file():
        pytest.skip("the shared benchmarks are absent")
    scoring = {**CHOICES, "doc_to_text": "{{query}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}"}
    task = benchmark(tmp_path, **scoring, dataset_kwargs={"data_files": {"test": str(path)}})
    found = read_benchmark(task)
    assert (len(found.items), found.rejected) == (2376, ())
    assert all(item.gold.startswith(" ") and item.gold in item.choices for item in found.items)


def benchmark(folder: Path, *, num_fewshot: int = 0, **settings: Any) -> BenchmarkTask:
    """Write a benchmark with twelve questions and three more as examples, and return its task."""
    directory = folder / "tasks"
    directory.mkdir(exist_ok=True)
    data = {"test": str(directory / "test.jsonl"), "train": str(directory / "train.jsonl")}
    for (split, path), numbers in zip(data.items(), (range(12), range(20, 23)), strict=True):
        records = [{"q": sentence(n), "options": ["fox", "owl", "gold iron"], "key": n % 3} for n in numbers]
        Path(path).write_text("".join(json.dumps(record) + "\n" for record in records))
        assert split in data
    definition = {
        "task": "own_quiz",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": data},
        "test_split": "test",
        **settings,
    }
    if num_fewshot:
        definition["training_split"] = "train"
        definition["fewshot_split"] = "train"
    (directory / "own_quiz.yaml").write_text(yaml.safe_dump(definition))
    return BenchmarkTask(
        name="quiz", benchmark="own_quiz", include_path=str(directory), num_fewshot=num_fewshot, limit=0
    )


def shown_examples(task: BenchmarkTask) -> list[dict[str, Any]]:
    """Return the records of the examples that mixcpt shows, in its order."""
    from mixcpt.evaluate.asking.tasks import read_tasks

    (asked,) = read_tasks(config_of(task), NO_CORPUS, seed=0)
    path = Path(task.include_path) / "train.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [records[int(example.id.rpartition(":")[2]) - 1] for example in asked.examples]


def config_of(task: BenchmarkTask) -> EvaluateConfig:
    return EvaluateConfig(tasks=(task,), headline_domain="quiz", headline_general="quiz")


def run(model: ModelRef, folder: Path, task: BenchmarkTask) -> ArtifactRef:
    store = ArtifactStore(folder / "store")
    return evaluate(config_of(task), model, NO_CORPUS, form="chat", seed=0, store=store, tracker=NullTracker())
