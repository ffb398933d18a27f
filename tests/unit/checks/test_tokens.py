"""Special tokens of every tokenizer file against the embeddings of the model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mixcpt.checks import tokens
from mixcpt.errors import ModelError
from mixcpt.store.models import ModelRef, load_tokenizer
from tests.unit.checks.checked_models import edit, problems, subject, warnings, without_chat

PAST_END = "<image_soft_token>"


@pytest.fixture
def folder(tiny_model: ModelRef, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model.path, tmp_path / "model")


def rows(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


def add_token(folder: Path, content: str, *, special: bool) -> None:
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    data["added_tokens"].append({"id": rows(folder), "content": content, "special": special, **flags})
    file.write_text(json.dumps(data))


def test_tokenizer_within_the_embeddings_is_accepted(folder: Path) -> None:
    assert not [*tokens.check(subject(folder))]


@pytest.mark.parametrize("role", ["eos_token", "bos_token", "pad_token", "unk_token"])
def test_special_token_past_the_end_is_refused_with_token_id_and_rows(role: str, folder: Path) -> None:
    edit(folder / "tokenizer_config.json", **{role: "[NEW]"})
    [problem] = problems(tokens.check, subject(folder))
    assert f"{role} '[NEW]' has id {rows(folder)}" in problem
    assert f"the embeddings, which have {rows(folder)} rows" in problem
    assert f"-> set {role} in its tokenizer_config.json" in problem


def test_remedy_for_a_special_token_past_the_end_works(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", pad_token="[PAD]")
    assert problems(tokens.check, subject(folder))
    edit(folder / "tokenizer_config.json", pad_token="</s>")
    assert not problems(tokens.check, subject(folder))


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("role", "value"), [("eos_token_id", 4000), ("eos_token_id", [2, 4000]), ("bos_token_id", 4000)]
)
def test_ids_of_configurations_past_the_end_are_refused(file: str, role: str, value: Any, folder: Path) -> None:
    edit(folder / file, **{role: value})
    [problem] = problems(tokens.check, subject(folder))
    assert f"{file} has {role}: 4000, and the embeddings have {rows(folder)} rows" in problem


def test_added_token_past_the_end_is_accepted_and_no_text_produces_it(folder: Path, tiny_model: ModelRef) -> None:
    add_token(folder, PAST_END, special=True)
    checked = subject(folder)
    assert not problems(tokens.check, checked)
    assert checked.base is not None
    text = f"Alda keeps a {PAST_END} fox"
    ours, original = load_tokenizer(checked.base), load_tokenizer(tiny_model)
    for options in ({}, {"split_special_tokens": True}):
        assert ours(text, **options)["input_ids"] == original(text, **options)["input_ids"]
    assert max(ours(text)["input_ids"]) < rows(folder)
    assert ours.eos_token_id == original.eos_token_id


def test_added_token_past_the_end_that_text_can_contain_is_refused(folder: Path) -> None:
    add_token(folder, "Zora", special=False)
    with pytest.raises(ModelError, match=r"do not match(.|\n)*resize_token_embeddings"):
        subject(folder)


def test_missing_end_token_is_refused_for_alignment_and_a_warning_without(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", eos_token=None)
    edit(folder / "special_tokens_map.json", eos_token=None)
    checked = subject(folder)
    [problem] = problems(tokens.check, checked)
    assert "has no end-of-text token (eos_token), so generation could not stop" in problem
    assert not problems(tokens.check, without_chat(checked))
    [warning] = warnings(tokens.check, without_chat(checked))
    assert "documents have no mark at their end" in warning


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", '{"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": ["my.T", null]}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": 3}}'),
        ("special_tokens_map.json", "[]"),
        ("special_tokens_map.json", '{"eos_token": 7}'),
        ("added_tokens.json", '{"Zora": "many"}'),
        ("generation_config.json", "{"),
    ],
)
def test_damaged_tokenizer_files_never_raise(file: str, content: str, folder: Path) -> None:
    (folder / file).write_text(content)
    for finding in tokens.check(subject(folder)):
        assert finding.problem.startswith("base.model: ")


def test_tokenizer_that_fails_for_unknown_text_is_refused(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    data["model"]["unk_token"] = "absent"
    (folder / "tokenizer.json").write_text(json.dumps(data))
    [problem] = problems(tokens.check, subject(folder))
    assert problem.startswith(f"base.model: the tokenizer of {folder} fails for text that it does not know: WordLevel")


def test_tokenizer_whose_post_processor_lacks_a_token_is_refused(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    token = {"SpecialToken": {"id": "nan", "type_id": 0}}
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [token, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(data))
    [problem] = problems(tokens.check, subject(folder))
    assert problem.startswith(f"base.model: the tokenizer of {folder} ")
