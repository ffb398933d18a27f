"""Passages, requests, forms and memory of rewriting."""

from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixcpt.cli.app import app
from mixcpt.errors import ConfigError
from mixcpt.rewrite.forms import Form, load_forms, load_judge, shipped_forms
from mixcpt.rewrite.memory import Generated, Memory
from mixcpt.rewrite.passages import Document, Passage, cut_passages
from mixcpt.rewrite.requests import plan_requests

SENTENCE = "The ore of Yiarin is flint, and its dish is rice. "


def document(text: str, name: str = "a") -> Document:
    return Document(id=name, source="docs", title="", text=text)


def passages(texts: list[str], length: int = 300, overlap: int = 0) -> list[Passage]:
    return list(cut_passages([document(text, str(index)) for index, text in enumerate(texts)], length, overlap))


def form(name: str, **values: object) -> Form:
    return Form.model_validate({"name": name, "purpose": "a test", "prompt": "{passage}\nSay it again.", **values})


def test_short_document_is_one_passage() -> None:
    (passage,) = passages([SENTENCE])
    assert passage.text == SENTENCE


@pytest.mark.parametrize("overlap", [0, 60, 149])
def test_long_document_is_cut_at_sentences_and_loses_nothing(overlap: int) -> None:
    sentences = [f"Sentence number {index} is about ore {index}." for index in range(40)]
    parts = passages([" ".join(sentences)], overlap=overlap)
    assert len(parts) > 3
    assert all(len(part.text) <= 300 for part in parts)
    assert all(any(sentence in part.text for part in parts) for sentence in sentences)
    repeated = sum(len(part.text) for part in parts) - len(" ".join(sentences))
    assert repeated > 0 if overlap >= 60 else repeated <= 0


def test_sentence_longer_than_a_passage_is_cut_inside() -> None:
    parts = passages(["word " * 500])
    assert all(len(part.text) <= 300 for part in parts)
    assert "".join(part.text for part in parts).count("word") == 500


def test_moved_passage_keeps_its_digest() -> None:
    first, second = passages([SENTENCE, "Another text. " + SENTENCE])[:2]
    assert Passage(document=document(SENTENCE, "b"), number=7, text=SENTENCE).digest == first.digest
    assert second.digest != first.digest


@pytest.mark.parametrize("amount", [0.5, 1.0, 3.0])
def test_requests_have_the_wanted_length(amount: float) -> None:
    parts = passages([f"{SENTENCE * 3}It is number {index}." for index in range(20)])
    requests = plan_requests(parts, [form("a", length=1.0), form("b", length=0.5)], amount, seed=0)
    wanted = amount * sum(len(part.text) for part in parts)
    assert wanted <= sum(request.characters for request in requests) < wanted + 200
    assert len({request.key("g", 0) for request in requests}) == len(requests)


def test_every_passage_gets_every_form_before_any_again() -> None:
    parts = passages([SENTENCE, SENTENCE + "More. ", SENTENCE + "Much more. "])
    requests = plan_requests(parts, [form("a"), form("b", per_passage=2)], 6.0, seed=0)
    counts = Counter((request.passage.document.id, request.form.name) for request in requests)
    assert {counts[part.document.id, "a"] for part in parts} <= {2, 1, 3}
    assert max(counts[part.document.id, "b"] for part in parts) >= 2


def test_key_depends_on_passage_form_generator_seed_and_repetition() -> None:
    parts = passages([SENTENCE, SENTENCE + "More. "])
    requests = plan_requests(parts, [form("a"), form("b")], 4.0, seed=0)
    keys = {request.key(generator, seed) for request in requests for generator in "gh" for seed in (0, 1)}
    assert len(keys) == 4 * len(requests)


def test_all_shipped_forms_are_valid_and_named_after_their_file() -> None:
    names = [shipped.name for shipped in shipped_forms()]
    assert {
        "paraphrase",
        "questions",
        "broad_questions",
        "key_points",
        "implications",
        "dialogue",
        "lesson",
        "table",
    } <= set(names)
    assert [loaded.name for loaded in load_forms(tuple(names))] == names
    assert load_judge("judge").prompt.count("{statement}") == 1


def test_form_of_a_user_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "case.yaml"
    path.write_text("name: case\npurpose: cases\nprompt: 'A case about: {passage} ({title})'\n")
    (loaded,) = load_forms((str(path),))
    assert loaded.request("{title} stays", "T") == "A case about: {title} stays (T)"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("name: x\npurpose: y\nprompt: no place\n", "{passage} exactly once"),
        ("name: x\npurpose: y\nprompt: '{passage}'\nlenght: 2\n", "lenght"),
        ("- a list\n", "file"),
        ("name: [\n", "case.yaml"),
    ],
)
def test_invalid_form_is_refused_with_its_file(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "case.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"rewrite\.forms") as caught:
        load_forms((str(path),))
    assert problem in str(caught.value)


def test_unknown_forms_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        load_forms(("nothing", "../judges/judge"))
    assert "'nothing'" in caught.value.problem
    assert "'../judges/judge'" in caught.value.problem


def test_memory_returns_what_was_added_and_skips_a_cut_line(tmp_path: Path) -> None:
    memory = Memory(tmp_path, "generator")
    memory.add([Generated(key="a", text="one\ntwo"), Generated(key="b", text="é")])
    with memory.path.open("ab") as stream:
        stream.write(b'{"key": "c", "te')
    memory.add([Generated(key="d", text="later")])
    assert {key: answer.text for key, answer in memory.read().items()} == {"a": "one\ntwo", "b": "é", "d": "later"}


def test_first_answer_of_equal_keys_counts(tmp_path: Path) -> None:
    memory = Memory(tmp_path, "generator")
    memory.add([Generated(key="a", text="first")])
    memory.add([Generated(key="a", text="second")])
    assert memory.read()["a"].text == "first"


def test_command_lists_the_forms_and_prints_one_that_can_be_read_again(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["forms"]).output
    assert "rewrite: {forms: [my-form.yaml]}" in " ".join(listed.split())
    path = tmp_path / "mine.yaml"
    path.write_text(CliRunner().invoke(app, ["forms", "questions"]).output)
    assert load_forms((str(path),)) == load_forms(("questions",))
