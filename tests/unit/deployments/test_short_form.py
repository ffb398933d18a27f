"""The short form of a run: its fields, its presets, and the settings that follow from it."""

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import validate
from pydantic import ValidationError

from flows.quick import quick
from mixcpt.config import AdaptConfig, QuickRun, ReadaptConfig, load_config
from mixcpt.config.presets import OWN_PRESETS, SHIPPED_PRESETS, own_presets, preset_names
from mixcpt.config.writing import to_yaml
from mixcpt.errors import ConfigError
from mixcpt.servers.deployment import Pools, deployments
from mixcpt.store.models import ModelRef
from tasks.own_run import own_run

PLAIN_TYPES = {"string", "integer", "boolean", "array"}
QUESTION = {"question": "which colour?", "choices": ["red", "blue"], "answer": 0, "doc_id": "one"}


@pytest.fixture
def files(tmp_path: Path, tiny_model: ModelRef) -> dict[str, Any]:
    """Values of a form about a tiny model and files of one's own."""
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "one.md").write_text("# Title\n\n" + "the fox of the tower is red . " * 40)
    (tmp_path / "questions.jsonl").write_text((json.dumps(QUESTION) + "\n") * 30)
    (tmp_path / "general.jsonl").write_text((json.dumps({"instruction": "say it", "output": "it"}) + "\n") * 30)
    return {
        "model": tiny_model.path,
        "documents": [str(tmp_path / "documents")],
        "questions": [str(tmp_path / "questions.jsonl")],
        "instructions": [str(tmp_path / "general.jsonl")],
        "store": str(tmp_path / "store"),
    }


def form_schema() -> dict[str, Any]:
    schema: dict[str, Any] = quick.parameters.model_dump()
    return schema


def test_short_form_has_only_plain_fields_with_title_and_help() -> None:
    fields = form_schema()["definitions"]["QuickRun"]["properties"]
    assert len(fields) <= 12
    for name, field in fields.items():
        assert field["type"] in PLAIN_TYPES, name
        assert field.get("items", {"type": "string"})["type"] == "string", name
        assert field["title"] and field["description"], name
        assert not {"anyOf", "oneOf", "prefixItems"} & set(field), name
    assert sorted(field["position"] for field in fields.values()) == list(range(len(fields)))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": ""},
        {"documents": []},
        {"total_tokens": -1},
        {"total_tokens": "many"},
        {"preset": "unknown"},
        {"name": "../elsewhere"},
        {"documents": "a path"},
        {"questions": [1]},
        {"colour": "red"},
    ],
)
def test_bad_value_is_refused_by_the_schema_and_by_the_settings(changes: dict[str, Any]) -> None:
    given = {"model": "owner/model", "documents": ["/documents"]}
    assert validate({"config": given}, form_schema(), raise_on_error=False) == []
    assert validate({"config": given | changes}, form_schema(), raise_on_error=False)
    if changes != {"preset": "unknown"}:  # found when the preset is read, because a folder can get new ones
        with pytest.raises(ValidationError):
            QuickRun.model_validate(given | changes)


def test_preset_of_ones_own_needs_no_model_and_no_documents() -> None:
    form = {"config": {"preset": "laptop-cpu"}}
    assert validate(form, form_schema(), raise_on_error=False) == []
    assert QuickRun(preset="laptop-cpu").model == ""


def test_presets_of_the_user_come_first_and_are_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = {path.stem for path in SHIPPED_PRESETS.glob("*.yaml")}
    assert preset_names(own_presets(tmp_path)) == ["automatic", *sorted(shipped)]
    own_presets(tmp_path).mkdir()
    (own_presets(tmp_path) / "ours.yaml").write_text("name: ours\n")
    assert preset_names(own_presets(tmp_path))[:2] == ["ours", "automatic"]
    monkeypatch.setenv(OWN_PRESETS, str(own_presets(tmp_path)))
    assert QuickRun.model_json_schema()["properties"]["preset"]["enum"][:2] == ["ours", "automatic"]
    described = deployments(tmp_path, pools=Pools(), rounds=ReadaptConfig(), presets=False)["deployments"]
    (values,) = (item["parameters"]["config"] for item in described if item["name"] == "adapt")
    assert values == {"preset": "ours", "store": str(tmp_path), "gpu_pool": ""}
    assert own_run(QuickRun(**values)).config.curation == AdaptConfig().curation


def test_automatic_settings_measure_questions_and_forgetting(files: dict[str, Any], tmp_path: Path) -> None:
    settings = own_run(QuickRun(**files, name="ours", total_tokens=5000, with_traditional=True, gpu_pool="gpu"))
    config = settings.config
    assert (config.name, config.base.model, config.mixture.total_tokens) == ("ours", files["model"], 5000)
    assert config.runtime.model_dump(include={"store", "gpu_pool", "with_traditional"}) == {
        "store": files["store"],
        "gpu_pool": "gpu",
        "with_traditional": True,
    }
    groups = {task.name: task.group for task in config.evaluate.tasks}
    assert (groups[config.evaluate.headline_domain], groups[config.evaluate.headline_general]) == ("domain", "general")
    assert config.mixture.total_tokens // config.mixture.row_tokens >= config.pretrain.batch_rows
    (tmp_path / "again.yaml").write_text(to_yaml(config, only_set=True, reasons=settings.reasons))
    assert load_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize("preset", sorted(path.stem for path in SHIPPED_PRESETS.glob("*.yaml")))
def test_every_preset_adapts_another_model_to_other_documents(preset: str, files: dict[str, Any]) -> None:
    uses_instructions = load_config(SHIPPED_PRESETS / f"{preset}.yaml").mixture.weights.instructions
    form = QuickRun(**(files if uses_instructions else files | {"instructions": []}), preset=preset)
    config, given = own_run(form).config, load_config(SHIPPED_PRESETS / f"{preset}.yaml")
    assert config.base.model == files["model"]
    domain = [source for source in config.curation.sources if source.pool == "domain"]
    assert [source.paths for source in domain if source.kind == "files"] == [tuple(files["documents"])]
    assert len(domain) == 1
    assert config.pretrain.method == given.pretrain.method
    assert config.mixture.total_tokens == given.mixture.total_tokens
    assert config.evaluate.headline_domain == "questions"
    tasks = {task.name: task for task in config.evaluate.tasks}
    about_domain = [task for task in tasks.values() if task.group == "domain"]
    assert {task.kind for task in about_domain} == {"multiple_choice", "bits_per_byte"}
    assert not [task for task in about_domain if task.kind == "bits_per_byte" and task.source]
    for evaluate in (config.evaluate, given.evaluate):
        assert {task.name: task.group for task in evaluate.tasks}[evaluate.headline_general] == "general"


def test_files_that_a_preset_does_not_use_are_refused(files: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="preferences: the preset laptop-cpu uses none"):
        own_run(QuickRun(**files, preset="laptop-cpu", preferences=files["instructions"]))


@pytest.mark.parametrize("field", ["model", "documents", "questions", "instructions"])
def test_missing_file_is_named_by_its_field_of_the_form(field: str, files: dict[str, Any]) -> None:
    missing = "/there/is/nothing" if field == "model" else ["/there/is/nothing.jsonl"]
    with pytest.raises(ConfigError, match=f"(?m)^{field}.*/there/is/nothing") as refused:
        own_run(QuickRun(**files | {field: missing}))
    assert f"--{field}" not in str(refused.value)


def test_unknown_preset_names_the_presets() -> None:
    with pytest.raises(ConfigError, match=r"no preset 'other'.*automatic, demo-mixcpt"):
        own_run(QuickRun(preset="other"))
