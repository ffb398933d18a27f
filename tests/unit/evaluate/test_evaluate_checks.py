"""Problems of tasks and headlines are found before any work, with key, cause and remedy."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixcpt.checks.findings import Finding, Subject
from mixcpt.checks.questions import check
from mixcpt.config import AdaptConfig, load_config, read_stored
from mixcpt.errors import ConfigError
from mixcpt.store.models import ModelRef

TEXT = {"kind": "bits_per_byte", "name": "general_text", "group": "general", "path": "shipped"}
DOMAIN = {"kind": "bits_per_byte", "name": "domain_text", "group": "domain", "heldout_pool": "domain"}


@pytest.mark.parametrize(
    ("tasks", "headlines", "problem"),
    [
        ([DOMAIN], ("domain_text", "domain_text"), "headline_general is domain_text, a task of the domain"),
        ([DOMAIN, TEXT], ("domain_text", "domain_text"), "name one of general_text"),
        ([DOMAIN, TEXT], ("general_text", "general_text"), "headline_domain is general_text, a general task"),
    ],
)
def test_headline_task_of_the_wrong_group_is_refused_in_new_settings_and_read_from_records(
    tmp_path: Path, tasks: list[dict[str, Any]], headlines: tuple[str, str], problem: str
) -> None:
    settings = {"evaluate": {"tasks": tasks, "headline_domain": headlines[0], "headline_general": headlines[1]}}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=rf"evaluate\.(.|\n)*{problem}"):
        load_config(path)
    stored = read_stored(AdaptConfig, settings)
    assert stored.evaluate.headline_general == headlines[1]
    assert any(problem in finding.problem for finding in check(Subject(stored, None)))


def test_empty_general_headline_is_a_warning() -> None:
    config = settings([DOMAIN], headline_general="")
    (finding,) = check(Subject(config, None))
    assert finding.is_warning
    assert "forgetting is not measured" in finding.problem
    assert config.promised_tasks == ()


def test_promise_without_a_task_to_protect_is_refused() -> None:
    with pytest.raises(ValueError, match="retention protects no task"):
        settings([DOMAIN], headline_general="", pretrain={"retention": {"max_loss": 0.02}})


def test_question_file_with_few_and_bad_records_is_warned_about(tmp_path: Path) -> None:
    records = [{"question": f"q{n}", "choices": ["a", "b"], "answer": n % 3, "doc_id": f"d{n % 4}"} for n in range(9)]
    found = list(check(Subject(with_questions(tmp_path, records), None)))
    assert all(finding.is_warning for finding in found)
    assert "3 of 9 records of asked cannot be used; the first" in found[0].problem
    assert "line 3, field answer: is 2, but there are 2 choices" in found[0].problem
    assert "about 4 passages, too few for an interval" in found[1].problem


def test_question_file_without_usable_record_is_a_problem_with_remedy(tmp_path: Path) -> None:
    (finding,) = check(Subject(with_questions(tmp_path, [{"frage": "q"}] * 12), None))
    assert not finding.is_warning
    assert finding.problem.startswith("evaluate.tasks[1].path: ")
    assert "Its fields: frage" in finding.problem
    assert "docs/evaluation.md" in finding.remedy


def test_texts_that_the_tokenizer_loses_are_a_problem(tiny_model: ModelRef) -> None:
    found: list[Finding] = list(check(Subject(settings([DOMAIN, TEXT]), tiny_model)))
    assert [finding.problem.split(":")[0] for finding in found] == ["evaluate.tasks[1].path"]
    assert "cannot represent" in found[0].problem


def with_questions(folder: Path, records: list[dict[str, Any]]) -> AdaptConfig:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    asked = {"kind": "multiple_choice", "name": "asked", "group": "domain", "path": str(path)}
    return settings([DOMAIN, asked, TEXT])


def settings(tasks: list[dict[str, Any]], headline_general: str = "general_text", **sections: Any) -> AdaptConfig:
    evaluate = {"tasks": tasks, "headline_domain": "domain_text", "headline_general": headline_general}
    return AdaptConfig.model_validate({"evaluate": {**evaluate, "split": "report"}, **sections})
