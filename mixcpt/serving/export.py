"""Export a model to a folder that other tools load, and check that the folder gives exactly the same logits."""

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

from mixcpt.align.endings import find_endings
from mixcpt.config import BaseModelConfig
from mixcpt.errors import ArtifactError, ConfigError, ModelError
from mixcpt.merge.writing import copy_companions
from mixcpt.store.models import ModelRef, load_model, load_tokenizer, resolve_model

Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
_GENERATION = "generation_config.json"
_PROBES = ("What is it?\n", "The heart has four chambers, and each of them beats.", "Größe: 34 m² ✓ 漢字")
_RANDOM_TOKENS = 48  # a row for vocabularies that lack the words of the probes
_REPORT = "nothing was written; save_pretrained may not support this architecture: please report it"

Probes: TypeAlias = list[tuple[list[int], Tensor]]
"""Rows of token ids with the logits that a model gives them."""


def require_empty(folder: Path) -> None:
    """Raise `ConfigError` if `folder` is a file or has files in it."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"{folder} is {'a file' if folder.is_file() else 'not empty'}", "name a new folder")


def export_model(model: ModelRef, folder: Path, *, card: str, dtype: Dtype, max_shard_size: str) -> ModelRef:
    """Export a model and return its reference; the folder appears only if it is complete and verified.

    The text `card` becomes the README.md, the number format `auto` keeps that of the weights, and `max_shard_size`
    limits every safetensors file, e.g. to `5GB`.

    Raises:
        ConfigError: If the folder is not empty, or the size is invalid.
        ArtifactError: If the folder cannot be written.
        ModelError: If the folder, loaded again, does not give exactly the logits of the source in that number format.
    """
    require_empty(folder)
    if not re.fullmatch(r"[1-9]\d*(KB|MB|GB|TB)", max_shard_size):
        problem = f"--max-shard-size {max_shard_size!r} is not a whole number with KB, MB, GB or TB"
        raise ConfigError(problem, "use e.g. 5GB")
    with _draft_of(folder) as draft:
        expected = _write(model, draft, dtype, max_shard_size)
        (draft / "README.md").write_text(card, encoding="utf-8")
        # save_pretrained writes weights that only their owner can read, but a server often runs as another user
        for path in draft.glob("*.safetensors"):
            path.chmod((draft / "README.md").stat().st_mode)
        require_same(model, draft, expected)
        draft.replace(folder)
    return resolve_model(BaseModelConfig(model=str(folder)))


def _write(model: ModelRef, draft: Path, dtype: Dtype, max_shard_size: str) -> Probes:
    """Write weights, configuration and tokenizer, and return rows of tokens with the logits of the source.

    The generation settings list every token that ends an answer.
    """
    network, tokenizer = load_model(model, dtype=dtype), load_tokenizer(model)
    ends = list(find_endings(tokenizer, network.generation_config).token_ids)
    expected = probe(network, model)
    network.config.use_cache = True
    network.generation_config = GenerationConfig(eos_token_id=ends)
    network.save_pretrained(draft, max_shard_size=max_shard_size)
    written = json.loads((draft / _GENERATION).read_text())
    copy_companions(model.directory, draft)
    if not (draft / "tokenizer.json").is_file():  # the only form that other tools read
        tokenizer.save_pretrained(draft)
    own = json.loads((draft / _GENERATION).read_text())
    generation = written | own | {"eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
    (draft / _GENERATION).write_text(json.dumps(generation, indent=2, sort_keys=True) + "\n")
    return expected


def require_same(model: ModelRef, draft: Path, expected: Probes) -> None:
    """Raise `ModelError` unless a folder gives exactly the tokens, prompts and logits of the source."""
    exported = resolve_model(BaseModelConfig(model=str(draft)))
    source, copy = load_tokenizer(model), load_tokenizer(exported)
    if [copy(text)["input_ids"] for text in _PROBES] != [source(text)["input_ids"] for text in _PROBES]:
        raise ModelError(f"the exported tokenizer and that of {model.path} give different tokens", _REPORT)
    if copy.chat_template != source.chat_template:
        raise ModelError(f"the exported chat template differs from that of {model.path}", _REPORT)
    network = load_model(exported, dtype="auto")
    for input_ids, logits in expected:
        if not torch.equal(_logits(network, input_ids), logits):
            raise ModelError(f"the exported weights, loaded again, do not give the logits of {model.path}", _REPORT)


def probe(network: PreTrainedModel, model: ModelRef) -> Probes:
    """Return a few rows of tokens with the logits that the network gives them."""
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
    """Yield a new folder next to `folder`; it is deleted afterwards unless it was renamed to `folder`."""
    draft = folder.absolute().with_name(f".{folder.absolute().name}.draft-{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        yield draft
    except OSError as error:
        raise ArtifactError(f"cannot write {folder}: {error.strerror or error}", "name another folder") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
