"""Model cards: numbers from records, a header for the hub, and escaped user text."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from mixcpt.config import AverageConfig, CurationConfig, FilesSource, HuggingFaceSource
from mixcpt.merge.methods import average
from mixcpt.records.run import RunResult
from mixcpt.report.cards import card_of, foreign_card, header, hub_datasets, hub_id, model_card, shortened
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import ModelRef
from tests.unit.merge_models import moved_model
from tests.unit.report_artifacts import BASE, hits, run

DOMAIN, GENERAL = "domain_questions", "general_questions_unasked"
HOSTILE = "<script>alert(1)</script> [x](javascript:y)\n# title | `\x1b[31m"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def result(store: ArtifactStore) -> RunResult:
    return made(store)


@pytest.fixture(scope="module")
def final_card(result: RunResult, store: ArtifactStore) -> str:
    return model_card(result, store)


def made(store: ArtifactStore, name: str = "anatomy-run", **changes: Any) -> RunResult:
    right = {"base_right": {DOMAIN: hits(40, 0.1), GENERAL: hits(50, 1.0)}}
    right |= {"pretrained_right": {DOMAIN: hits(40, 0.6), GENERAL: hits(50, 1.0)}}
    right |= {"final_right": {DOMAIN: hits(40, 0.9), GENERAL: hits(50, 0.4)}}
    return run(store, name, **{**right, **changes})


def split(card: str) -> tuple[dict[str, Any], str]:
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body.replace("\u00a0", " ")


def rendered(body: str) -> str:
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(body))


def test_card_lists_the_training_data(final_card: str) -> None:
    front, body = split(final_card)
    assert "| anatomy | domain | 1,840 | 1,946 | 650,000 | 3.2 | anatomy.jsonl a1a1a1a1a1a1 |" in body
    assert "| t0 | instructions | 4,200 | 4,200 | 650,000 | 4.3 |  |" in body
    assert front["mixcpt"]["base"] == {"name": BASE["name"], "digest": BASE["digest"]}
    source, other = front["mixcpt"]["datasets"]
    assert source["files"] == [{"name": "anatomy.jsonl", "sha256": "a1" * 32}]
    assert (source["name"], source["records"], other["pool"]) == ("anatomy", 1840, "instructions")


def test_card_lists_results_and_cost(final_card: str) -> None:
    _, body = split(final_card)
    assert "| domain questions | 40 | 10.0 % | 90.0 % | ▲ +80.0 \\[" in body
    assert "| general questions unasked | 50 | 100.0 % | 40.0 % | ▼ −60.0 \\[" in body
    assert "anatomy-run gained in the domain (domain questions 10.0 % → 90.0 %" in body
    assert "It is significantly worse than its base on: general questions unasked (▼ −60.0" in body
    assert "| pre-training | 1 min 58 s | 1,300,000 | 20.8 TFLOP | 1.35 GiB |" in body
    assert body.count("| total |") == 1
    assert "with seed 0" in body


def test_card_of_an_earlier_model_has_its_own_numbers(result: RunResult, store: ArtifactStore) -> None:
    _, body = split(model_card(result, store, "pretrained"))
    assert "the run's model `pretrained`, not its final model (`dpo`)" in body
    assert "| domain questions | 40 | 10.0 % | 60.0 % |" in body and "90.0 %" not in body
    assert "No task shows a significant loss" in body
    _, unmeasured = split(model_card(result, store, "sft"))
    assert "This model was not evaluated separately" in unmeasured and "90.0 %" not in unmeasured


def test_front_matter_leaves_the_licence_to_the_user_and_names_only_hub_ids(final_card: str) -> None:
    front, _ = split(final_card)
    assert "# license: choose one" in final_card and "license" not in front
    assert not {"base_model", "datasets"} & set(front)  # a local folder and local files have no hub id
    assert front["tags"] == ["mixcpt", "continual-pretraining", "lssd"]
    shared = header({}, tags=["lssd"], bases=["owner/base"], datasets=["owner/set"])
    assert (split(shared)[0]["base_model"], split(shared)[0]["datasets"]) == (["owner/base"], ["owner/set"])
    assert hub_id(ModelRef("base", "/cache/hub/models--my-team--base-1.5/snapshots/0a", "")) == "my-team/base-1.5"
    assert hub_id(ModelRef("base", "/home/me/my-team/base-1.5", "")) == ""


def test_card_names_no_place_on_this_machine(final_card: str, store: ArtifactStore, tmp_path: Path) -> None:
    assert str(store.root) not in final_card and "models/tiny-base" not in final_card
    local, shared = (
        HuggingFaceSource(name=name, pool="domain", path=path)
        for name, path in (("a", str(tmp_path)), ("b", "owner/set"))
    )
    files = FilesSource(name="c", pool="domain", paths=("docs/*.txt",))
    assert hub_datasets(CurationConfig(sources=(local, shared, files))) == ["owner/set"]


def test_user_text_in_a_card_is_escaped(store: ArtifactStore) -> None:
    front, body = split(model_card(made(store, "hostile", source=HOSTILE, extra_task=HOSTILE), store))
    assert front["mixcpt"]["datasets"][0]["name"] == HOSTILE
    html = rendered(body)
    assert "<script" not in html and "<a " not in html and "\x1b" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert (html.count("<h1>"), html.count("<table>")) == (1, 3)


def test_card_of_a_model_is_found_from_its_files(
    result: RunResult, final_card: str, store: ArtifactStore, tiny_model: ModelRef, tmp_path: Path
) -> None:
    for role in ("pretrained", "dpo"):
        (Path(result.refs[role].path) / "model").mkdir()
    final = ModelRef.from_artifact(result.refs["dpo"], "x")
    assert card_of(final, store) == final_card
    pretrained = ModelRef.from_artifact(result.refs["pretrained"], "x")
    assert "the run's model `pretrained`, not its final model" in card_of(pretrained, store)
    moved = moved_model(tiny_model, tmp_path / "moved", 1)
    merged = average(AverageConfig(), tiny_model, moved, store=store, name="both")
    front, body = split(card_of(ModelRef.from_artifact(merged, "both"), store))
    assert front["mixcpt"]["models"]["model-1"] == {"name": "tiny-llama", "digest": tiny_model.digest}
    assert "# both" in body and f"| model-2 | moved | {moved.digest[:12]} |" in body
    assert "chat_template" in body  # the model has a chat template, so the card shows its use


def test_card_of_a_foreign_model_is_its_readme_or_minimal(tiny_model: ModelRef, tmp_path: Path) -> None:
    front, body = split(card_of(tiny_model, ArtifactStore(tmp_path)))
    assert "There is no record of its training data" in body and front["mixcpt"]["model"] == tiny_model.digest
    (tmp_path / "README.md").write_text("# Mine\n")
    assert foreign_card(ModelRef("mine", str(tmp_path), "")) == "# Mine\n"


def test_code_of_a_card_runs(tiny_model: ModelRef, final_card: str, capsys: pytest.CaptureFixture[str]) -> None:
    for card in (foreign_card(tiny_model), final_card):
        code = card.split("```python\n")[1].split("```")[0].replace('"."', repr(tiny_model.path))
        exec(code.replace('device_map="auto"', 'device_map="cpu"').replace("256", "3"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_shortened_card_has_no_header_and_loses_whole_sections_from_the_end(final_card: str) -> None:
    body = final_card.split("---\n", 2)[2]
    whole = shortened(final_card, len(final_card))
    assert whole == body.strip()
    short = shortened(final_card, 1200)
    assert len(short) <= 1200
    assert whole.startswith(short)
    assert whole[len(short) :].startswith("\n\n## ")
