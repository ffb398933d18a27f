"""Chat templates and the two forms of a sample."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mixcpt.align.chat import context_tokens, encode_chat, encode_plain, load_chat_tokenizer, template_digest
from mixcpt.errors import ModelError
from mixcpt.store.fingerprint import fingerprint
from mixcpt.store.models import ModelRef, load_tokenizer

SHIPPED = ["plain", "chatml"]


@pytest.fixture
def untemplated(tiny_model: ModelRef, tmp_path: Path) -> ModelRef:
    """The tiny model without its chat template."""
    folder = shutil.copytree(tiny_model.path, tmp_path / "untemplated")
    (folder / "chat_template.jinja").unlink()
    return ModelRef("untemplated", str(folder), "0" * 64)


def test_plain_template_dialogue_reads_as_ordinary_text(tiny_model: ModelRef) -> None:
    tokenizer = load_chat_tokenizer(tiny_model, "plain")
    dialogue = [
        {"role": "user", "content": "who lives in the tower ? "},
        {"role": "assistant", "content": "Alda ."},
        {"role": "user", "content": "where ?"},
    ]
    text = tokenizer.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=True)
    assert text == "<s>User:\nwho lives in the tower ?\nAssistant:\nAlda .</s>\nUser:\nwhere ?\nAssistant:\n"


def test_chatml_template_dialogue_marks_turns_and_ends_answers_with_end_of_text(tiny_model: ModelRef) -> None:
    tokenizer = load_chat_tokenizer(tiny_model, "chatml")
    dialogue = [
        {"role": "system", "content": "the owl"},
        {"role": "user", "content": "who ?"},
        {"role": "assistant", "content": "Alda ."},
    ]
    text = tokenizer.apply_chat_template(dialogue, tokenize=False)
    assert text == (
        "<s><|im_start|>system\nthe owl<|im_end|>\n<|im_start|>user\nwho ?<|im_end|>\n"
        "<|im_start|>assistant\nAlda .<|im_end|></s>"
    )
    tokenizer.eos_token = "<|im_end|>"
    assert tokenizer.apply_chat_template(dialogue, tokenize=False).endswith("Alda .<|im_end|>")


@pytest.mark.parametrize("template", SHIPPED)
@pytest.mark.parametrize("folder", ["TinyStories-656K", "stories260K-hf"])
def test_shipped_template_real_tokenizer_keeps_the_generation_prompt_as_prefix(
    shared_data: Path, template: str, folder: str
) -> None:
    """The TinyStories tokenizer merges a line break with the next word, so a prompt without answer ends differently."""
    tokenizer = load_chat_tokenizer(ModelRef(folder, str(shared_data / "models" / folder), ""), template)
    prompt_ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who is big?"}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    encoded = encode_chat(tokenizer, "Who is big?", "The dog is big.")
    assert encoded.prompt_ids == prompt_ids
    assert tokenizer.decode(encoded.response_ids).replace("<|im_end|>", "").startswith("The dog is big.")
    assert encoded.response_ids[-1] == tokenizer.eos_token_id
    assert len(tokenizer) == tokenizer.vocab_size  # nothing was added


def test_encode_chat_own_template_cuts_where_generation_starts(tiny_model: ModelRef) -> None:
    tokenizer = load_chat_tokenizer(tiny_model, "")
    encoded = encode_chat(tokenizer, "who keeps the fox ?", "Alda keeps it .")
    assert " ".join(tokenizer.convert_ids_to_tokens(encoded.prompt_ids)) == "<|user|> who keeps the fox ? <|assistant|>"
    assert " ".join(tokenizer.convert_ids_to_tokens(encoded.response_ids)) == "Alda keeps <unk> . </s>"
    assert encoded.num_tokens == len(encoded.input_ids) == 12


def test_encode_chat_template_that_renders_the_generation_prompt_otherwise_keeps_prompt_and_answer(
    tiny_model: ModelRef, tmp_path: Path
) -> None:
    """Some reasoning models end the generation prompt with an empty thought that a finished dialogue does not show."""
    path = tmp_path / "thought.jinja"
    path.write_text(
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }} <|assistant|>"
        "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %} green{% endif %}"
    )
    tokenizer = load_chat_tokenizer(tiny_model, str(path))
    encoded = encode_chat(tokenizer, "who ?", "Alda .")
    assert " ".join(tokenizer.convert_ids_to_tokens(encoded.prompt_ids)) == "who ? <|assistant|> green"
    assert " ".join(tokenizer.convert_ids_to_tokens(encoded.response_ids)) == "Alda . </s>"


def test_encode_plain_is_the_pretraining_form(tiny_model: ModelRef) -> None:
    tokenizer = load_chat_tokenizer(tiny_model, "")
    encoded = encode_plain(tokenizer, "who keeps the fox ?", "Alda .")
    assert " ".join(tokenizer.convert_ids_to_tokens(encoded.prompt_ids)) == "<s> who keeps the fox ? \n"
    assert " ".join(tokenizer.convert_ids_to_tokens(encoded.response_ids)) == "Alda . </s>"


def test_template_digest_differs_by_text_only(tiny_model: ModelRef, untemplated: ModelRef) -> None:
    digests = {name: template_digest(tiny_model, name) for name in ["", *SHIPPED]}
    assert len(set(digests.values())) == 3
    assert template_digest(untemplated, "plain") == digests["plain"]


def in_file(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes("{{ ‘é’ }}\r\n\r{{ messages }}".encode())


def in_settings(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    _set_template(folder, "{{ messages }}")


def in_both(folder: Path) -> None:
    _set_template(folder, "{{ messages }}")


def several_in_settings(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    _set_template(folder, [{"name": "default", "template": "{{ messages }}"}, {"name": "tools", "template": "x"}])


def several_in_files(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")


def _set_template(folder: Path, template: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))


@pytest.mark.parametrize("place", [in_file, in_settings, in_both, several_in_settings, several_in_files])
@pytest.mark.parametrize("chat_template", ["", "plain", "chatml", "PATH"])
def test_template_digest_equals_that_of_the_loaded_tokenizer(
    tiny_model: ModelRef, tmp_path: Path, place: Callable[[Path], None], chat_template: str
) -> None:
    folder = shutil.copytree(tiny_model.path, tmp_path / "model")
    place(folder)
    if chat_template == "PATH":
        chat_template = str(tmp_path / "own.jinja")
        Path(chat_template).write_text("{{ messages }} own")
    model = ModelRef("model", str(folder), "")
    assert template_digest(model, chat_template) == fingerprint(load_tokenizer(model, chat_template).chat_template)


def test_template_digest_without_a_template_is_refused(untemplated: ModelRef) -> None:
    with pytest.raises(ModelError, match="no chat template"):
        template_digest(untemplated, "")


@pytest.mark.parametrize("name", ["TinyStories-656K", "stories260K-hf"])
def test_template_digest_of_small_real_models_equals_the_loaded_one(shared_data: Path, name: str) -> None:
    model = ModelRef(name, str(shared_data / "models" / name), "")
    assert load_tokenizer(model).chat_template is None
    assert template_digest(model, "chatml") == fingerprint(load_tokenizer(model, "chatml").chat_template)


def test_alignment_keys_import_neither_torch_nor_transformers() -> None:
    """The fingerprints equal the ones of earlier versions, which old stores have."""
    code = (
        "import sys\n"
        "from mixcpt.align.keys import finetuning_key, selection_key\n"
        "from mixcpt.config import DpoConfig, SelectionConfig, SftConfig\n"
        "from mixcpt.store.artifacts import ArtifactRef\n"
        "from mixcpt.store.models import CLOSED_WORLD_PATH, ModelRef\n"
        "ref, base = ArtifactRef('corpus', 'f', 'd', 'p'), ModelRef('b', str(CLOSED_WORLD_PATH), 'x')\n"
        "print(selection_key(SelectionConfig(), ref, base, '', seed=0).fingerprint)\n"
        "print(finetuning_key(SftConfig(), ref, base, 'plain', seed=0).fingerprint)\n"
        "print(finetuning_key(DpoConfig(), ref, base, 'plain', seed=0).fingerprint)\n"
        "print(sorted({'torch', 'transformers'} & sys.modules.keys()))\n"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert lines == [
        "bacd83ad050dd873016b5f0244c0058a5318d1ea61384ef17ece900b67156c94",
        "c6b2ff6b63e690b7da2ecb0bf64357cd964b797a084b8bd186219fd2de2a3a26",
        "e0716f10a4a58bb07039dffdef6acbc1fd2d997cf1e9f7fdef3b99041cfbd8fa",
        "[]",
    ]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for message in messages %}{{ message['content'] }}", "cannot be rendered"),
        ("{{ raise_exception('no user allowed') }}", "no user allowed"),
        ("{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}", "drops"),
    ],
)
def test_load_chat_tokenizer_unusable_template_says_why(
    tiny_model: ModelRef, tmp_path: Path, template: str, problem: str
) -> None:
    path = tmp_path / "bad.jinja"
    path.write_text(template)
    with pytest.raises(ModelError, match=problem):
        load_chat_tokenizer(tiny_model, str(path))


def test_load_chat_tokenizer_no_end_of_text_token_is_refused(tiny_model: ModelRef, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model.path, tmp_path / "endless")
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"eos_token": "</s>"', '"eos_token": null'))
    with pytest.raises(ModelError, match="no end-of-text token"):
        load_chat_tokenizer(ModelRef("endless", str(folder), ""), "plain")


def test_context_tokens_is_bounded_by_the_model(tiny_model: ModelRef) -> None:
    assert context_tokens(tiny_model, 100) == 100
    assert context_tokens(tiny_model, 1000) == 256
