"""The weights of a model folder, read tensor by tensor: never all of them at once, and never a pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from mixcpt.errors import ModelError
from mixcpt.store.models import ModelRef

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model whose weights stay on disk until one is asked for."""

    model: ModelRef
    config: PretrainedConfig
    files: Mapping[str, Path]
    """The file of each tensor, by name and in the order of the names; tied weights appear once."""

    def tensor(self, name: str) -> Tensor:
        """Returns a tensor as its file has it, mapped into memory: only what is used is read. Not for writing.

        The file is opened anew each time; kept open, all that was ever read would count as this process's memory.
        """
        with _open(self.files[name]) as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


def open_checkpoint(model: ModelRef) -> Checkpoint:
    """Returns the weights of a model, of which only the headers are read now.

    Raises:
        ModelError: If files are missing or damaged, or tied weights differ.
    """
    config, tied = _describe(model)
    files = _tensor_files(model.directory)
    whole = Checkpoint(model, config, files)
    copies = {copy: source for copy, source in tied.items() if copy in files and source in files}
    for copy, source in copies.items():
        if not torch.equal(whole.tensor(copy), whole.tensor(source)):
            raise ModelError(
                f"{model.path} says that {copy!r} and {source!r} are tied, but their values differ",
                "set tie_word_embeddings to false in its config.json",
            )
    return Checkpoint(model, config, {name: file for name, file in sorted(files.items()) if name not in copies})


def _describe(model: ModelRef) -> tuple[PretrainedConfig, dict[str, str]]:
    """Returns the configuration, and each tensor that is the same as another by design with that other's name."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(model.path, trust_remote_code=False)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{model.path} is no causal language model that can be loaded: {error}") from error
    return config, dict(network.all_tied_weights_keys)


def _tensor_files(folder: Path) -> dict[str, Path]:
    """Returns the file of each tensor; other safetensors in the folder (adapters, a second form) are no part of it."""
    if (folder / WEIGHTS).is_file():
        return dict.fromkeys(_names(folder / WEIGHTS), folder / WEIGHTS)
    try:
        placed: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder} has neither {WEIGHTS} nor a readable {INDEX}", "save the model with save_pretrained"
        ) from error
    held = {file: _names(folder / file) for file in sorted(set(placed.values()))}
    for name, file in sorted(placed.items()):
        if name not in held[file]:
            raise ModelError(f"{folder / INDEX} places {name!r} in {file}, which has no such tensor")
    return {name: folder / file for name, file in placed.items()}


def _names(path: Path) -> set[str]:
    with _open(path) as file:
        return set(file.keys())


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "fetch or save the model again") from error
