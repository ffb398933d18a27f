"""A model as a folder that any library loads: whole weights in safetensors, and proof that they answer alike."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from mixcpt.config import BaseModelConfig
from mixcpt.errors import ArtifactError, ConfigError, ModelError
from mixcpt.merge.writing import copy_companions
from mixcpt.serving.endings import Endings, find_endings
from mixcpt.store.models import ModelRef, load_model, load_tokenizer, resolve_model

Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]

_GENERATION = "generation_config.json"
_PROBES = ("What is it?\n", "The heart has four chambers, and each of them beats.", "Größe: 34 m² ✓ 漢字")
_RANDOM_TOKENS = 48
"""A row of drawn tokens is compared too: a small vocabulary may know no word of the probes."""

Probes: TypeAlias = list[tuple[list[int], Tensor]]
"""Rows of tokens, each with the logits that a model gives it."""


def require_size(text: str) -> None:
    """Raises `ConfigError` where `text` is no size of a file."""
    if not re.fullmatch(r"[1-9]\d*(KB|MB|GB|TB)", text):
        raise ConfigError(f"largest file {text!r}: a size is a whole number and KB, MB, GB or TB", "e.g. 5GB")


def require_empty(folder: Path) -> None:
    """Raises `ConfigError` where `folder` is a file, or a folder with something in it."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise ConfigError(f"{folder} is not empty" if folder.is_dir() else f"{folder} is a file", "name a new folder")


def export_model(model: ModelRef, folder: Path, *, card: str, dtype: Dtype, max_shard_size: str) -> ModelRef:
    """Returns the exported model, in one step: either the whole, verified folder is there, or nothing.

    Args:
        model: What to export.
        folder: Where to; it must not exist, or be empty.
        card: The text of its README.md.
        dtype: The number format of the weights; `auto` keeps what they have.
        max_shard_size: Largest safetensors file, e.g. `5GB`.

    Raises:
        ConfigError: If the folder is not empty, or the size is none.
        ArtifactError: If the folder cannot be written.
        ModelError: If the folder, loaded again, does not answer exactly as the source does in that number format.
    """
    require_empty(folder)
    require_size(max_shard_size)
    with _draft_of(folder) as draft:
        expected, endings = _write(model, draft, dtype, max_shard_size)
        _write_companions(model, draft, endings)
        (draft / "README.md").write_text(card, encoding="utf-8")
        for path in draft.glob("*.safetensors"):  # written for their owner alone; a server often is another user
            path.chmod((draft / "README.md").stat().st_mode)
        require_same(model, draft, expected)
        draft.replace(folder)
    return resolve_model(BaseModelConfig(model=str(folder)))


def _write(model: ModelRef, draft: Path, dtype: Dtype, max_shard_size: str) -> tuple[Probes, Endings]:
    """Returns what the source answers and what ends its answers, after writing weights and configuration."""
    network = load_model(model, dtype=dtype)
    endings = find_endings(load_tokenizer(model), network.generation_config)
    expected = probe(network, model)
    network.config.use_cache = True
    network.generation_config = GenerationConfig(eos_token_id=list(endings.token_ids))
    network.save_pretrained(draft, max_shard_size=max_shard_size)
    return expected, endings


def _write_companions(model: ModelRef, draft: Path, endings: Endings) -> None:
    """Writes tokenizer and chat form, and generation settings that name every token which ends an answer."""
    written = json.loads((draft / _GENERATION).read_text())
    copy_companions(model.directory, draft)
    tokenizer = load_tokenizer(model)
    if not (draft / "tokenizer.json").is_file():  # other tools read no other form
        tokenizer.save_pretrained(draft)
    own = json.loads((draft / _GENERATION).read_text())
    ends = {"eos_token_id": list(endings.token_ids), "pad_token_id": tokenizer.pad_token_id}
    (draft / _GENERATION).write_text(json.dumps(written | own | ends, indent=2, sort_keys=True) + "\n")


def require_same(model: ModelRef, draft: Path, expected: Probes) -> None:
    """Raises `ModelError` unless a folder gives the source's tokens, prompts and logits, bit for bit."""
    exported = resolve_model(BaseModelConfig(model=str(draft)))
    source, copy = load_tokenizer(model), load_tokenizer(exported)
    if [copy(text)["input_ids"] for text in _PROBES] != [source(text)["input_ids"] for text in _PROBES]:
        raise ModelError(f"the exported tokenizer does not read texts as that of {model.path} does")
    if copy.chat_template != source.chat_template:
        raise ModelError(f"the exported chat template is not that of {model.path}")
    network = load_model(exported, dtype="auto")
    for input_ids, logits in expected:
        if not torch.equal(_logits(network, input_ids), logits):
            raise ModelError(
                f"the exported weights, loaded again, do not give the logits of {model.path}",
                "nothing was written; this architecture may not survive save_pretrained: please report it",
            )


def probe(network: PreTrainedModel, model: ModelRef) -> Probes:
    """Returns a few rows of tokens with the logits that the network gives them."""
    tokenizer = load_tokenizer(model)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, network.config.get_text_config().vocab_size, (_RANDOM_TOKENS,), generator=generator)
    rows = [*(tokenizer(text)["input_ids"] for text in _PROBES), drawn.tolist()]
    return [(row, _logits(network, row)) for row in rows if row]


@torch.inference_mode()
def _logits(network: PreTrainedModel, input_ids: list[int]) -> Float[Tensor, "batch seq vocab"]:
    logits: Tensor = network(input_ids=torch.tensor([input_ids]), use_cache=False).logits
    return logits


@contextmanager
def _draft_of(folder: Path) -> Iterator[Path]:
    """Yields a new folder beside `folder`, which is gone afterwards unless it has become it."""
    draft = folder.absolute().with_name(f".{folder.absolute().name}.draft-{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        yield draft
    except OSError as error:
        raise ArtifactError(f"cannot write {folder}: {error.strerror or error}", "name another folder") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
