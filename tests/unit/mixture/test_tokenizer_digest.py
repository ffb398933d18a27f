"""Digests of tokenizers read from files, against the same tokenizers as transformers loads them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mixcpt.config import MixtureConfig, StreamConfig
from mixcpt.errors import ConfigError
from mixcpt.mixture.keys import PLAIN_MODEL_TYPES, loaded_form, mixture_key, read_form, tokenizer_digest
from mixcpt.mixture.tokens import PlainText, TextTokenizer
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import CLOSED_WORLD_PATH, ModelRef
from tests.unit.tokenizers_of_every_kind import FAMILIES, write_tokenizer

CORPUS = ArtifactRef("corpus", "f" * 64, "d" * 64, "unused")


def edit(name: str, **values: Any) -> Callable[[Path], None]:
    """Make an edit of a model folder that sets keys of a JSON file; None removes a key."""

    def apply(folder: Path) -> None:
        path = folder / name
        data = {**(json.loads(path.read_text()) if path.exists() else {}), **values}
        path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))

    return apply


def add_tokens(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken("<fact>", lstrip=True), AddedToken("tower", single_word=True)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    tokenizer.save_pretrained(folder)


def enable_padding(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(pad_token="<unk>", length=16)
    tokenizer.enable_truncation(16)
    tokenizer.save(str(folder / "tokenizer.json"))


def save_after_use(folder: Path) -> None:
    """Padding and truncation of a call stay in the backend, and `save_pretrained` writes them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer(["The owl", "The river is wide"], padding=True, truncation=True, max_length=8)
    tokenizer.save_pretrained(folder)


def declare_tokens(*, lstrip: bool) -> Callable[[Path], None]:
    """Make an edit that lists <s> in `added_tokens_decoder` with this property."""

    def apply(folder: Path) -> None:
        added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
        token = next(token for token in added if token["content"] == "<s>") | {"lstrip": lstrip}
        edit("tokenizer_config.json", added_tokens_decoder={str(token.pop("id")): token})(folder)

    return apply


READ: dict[str, Callable[[Path], None]] = {
    "as written": lambda folder: None,
    "added tokens": add_tokens,
    "no padding token": edit("tokenizer_config.json", pad_token=None),
    "no EOS": edit("tokenizer_config.json", eos_token=None),
    "no padding token and no EOS": edit("tokenizer_config.json", pad_token=None, eos_token=None),
    "older class": edit("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast"),
    "prefix space": edit("tokenizer_config.json", add_prefix_space=True),
    "BOS and EOS at both ends": edit("tokenizer_config.json", add_bos_token=True, add_eos_token=True),
    "token as an object": edit("tokenizer_config.json", pad_token={"__type": "AddedToken", "content": "<s>"}),
    "special_tokens_map.json": edit("special_tokens_map.json", pad_token="<s>", eos_token={"content": "<unk>"}),
    "declared tokens": declare_tokens(lstrip=False),
    "other text form": edit("tokenizer_config.json", chat_template="x", clean_up_tokenization_spaces=True),
}
LOADED: dict[str, Callable[[Path], None]] = {
    "declared tokens that differ": declare_tokens(lstrip=True),
    "padding and truncation": enable_padding,
    "saved after use": save_after_use,
    "special token outside the added tokens": edit("tokenizer_config.json", bos_token="<begin>"),
    "listed token outside the added tokens": edit("tokenizer_config.json", extra_special_tokens=["<|user|>"]),
    "named token of the model": edit("tokenizer_config.json", image_token="<image>"),
    "named token in special_tokens_map.json": edit("special_tokens_map.json", image_token="<image>"),
    "added_tokens.json": edit("added_tokens.json", **{"<more>": 2000}),
    "class of a model family": edit("tokenizer_config.json", tokenizer_class="GPT2Tokenizer"),
    "no class": edit("tokenizer_config.json", tokenizer_class=None),
    "model type with a class of its own": edit("config.json", model_type="qwen2"),
}


@pytest.mark.parametrize("has_bos", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", READ)
def test_form_read_from_files_equals_the_loaded_one(tmp_path: Path, case: str, family: str, has_bos: bool) -> None:
    model = write_tokenizer(tmp_path, family, has_bos=has_bos)
    READ[case](tmp_path)
    form = read_form(tmp_path)
    assert form is not None
    assert form == loaded_form(model)
    assert tokenizer_digest(model) == loaded_form(model).digest


@pytest.mark.parametrize("case", LOADED)
def test_form_that_transformers_may_change_is_not_read_from_files(tmp_path: Path, case: str) -> None:
    model = write_tokenizer(tmp_path, "byte_level", has_bos=True)
    LOADED[case](tmp_path)
    assert read_form(tmp_path) is None
    assert tokenizer_digest(model) == loaded_form(model).digest


@pytest.mark.parametrize("model_type", sorted(PLAIN_MODEL_TYPES))
def test_plain_model_types_load_a_generic_tokenizer(tmp_path: Path, model_type: str) -> None:
    write_tokenizer(tmp_path, "byte_level", has_bos=True)
    edit("config.json", model_type=model_type)(tmp_path)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is PreTrainedTokenizerFast
    assert read_form(tmp_path) == loaded_form(ModelRef("m", str(tmp_path), ""))


@pytest.mark.parametrize("name", ["TinyStories-656K", "stories260K-hf"])
def test_digest_of_small_real_models_equals_the_loaded_one(shared_data: Path, name: str) -> None:
    model = ModelRef(name, str(shared_data / "models" / name), "")
    assert tokenizer_digest(model) == loaded_form(model).digest


def test_form_of_the_closed_world_base_is_read_from_files() -> None:
    assert read_form(CLOSED_WORLD_PATH) == loaded_form(ModelRef("base", str(CLOSED_WORLD_PATH), ""))


def test_digest_follows_the_vocabulary_but_not_weights_and_chat_template(tiny_model: ModelRef, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model.path, copy)
    (copy / "model.safetensors").write_bytes(b"other weights")
    (copy / "chat_template.jinja").write_text("another chat template")
    here = ModelRef("copy", str(copy), "other")
    digest = tokenizer_digest(tiny_model)
    assert tokenizer_digest(here) == digest
    text = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(text.replace('"heron"', '"stork"'))
    assert tokenizer_digest(here) != digest


def test_digest_is_the_same_after_use(tiny_model: ModelRef) -> None:
    before = tokenizer_digest(tiny_model)
    TextTokenizer(tiny_model)([PlainText("the owl")])
    assert tokenizer_digest(tiny_model) == loaded_form(tiny_model).digest == before


def test_mixture_key_refuses_rows_longer_than_the_context(tiny_model: ModelRef) -> None:
    with pytest.raises(ConfigError, match=r"row_tokens is 257, but .* at most 256"):
        mixture_key(MixtureConfig(row_tokens=257), [StreamConfig()], CORPUS, tiny_model, seed=0)


def test_mixture_key_of_the_closed_world_base_imports_neither_torch_nor_transformers() -> None:
    """The fingerprint equals the one of earlier versions, which old stores have."""
    code = (
        "import sys\n"
        "from mixcpt.config import MixtureConfig, StreamConfig\n"
        "from mixcpt.mixture.keys import mixture_key\n"
        "from mixcpt.store.artifacts import ArtifactRef\n"
        "from mixcpt.store.models import CLOSED_WORLD_PATH, ModelRef\n"
        "corpus, base = ArtifactRef('corpus', 'f', 'd', 'p'), ModelRef('b', str(CLOSED_WORLD_PATH), 'x')\n"
        "print(mixture_key(MixtureConfig(), [StreamConfig()], corpus, base, seed=0).fingerprint)\n"
        "print(sorted({'torch', 'transformers'} & sys.modules.keys()))\n"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert lines == ["0c03bb972f8f706941dd5befb83afeb317219eb53570153652e0d468c539efba", "[]"]
