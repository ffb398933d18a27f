"""Reads the weights of a model folder tensor by tensor: never all of them at once, and never a pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from mixcpt.errors import ModelError
from mixcpt.store.models import ModelRef, auto_class

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model whose weights stay on disk until they are read."""

    model: ModelRef
    config: PretrainedConfig
    files: Mapping[str, Path]
    """File of every tensor, sorted by tensor name; tied weights appear once, under the name of their source."""
    stored_names: Mapping[str, str] = field(default_factory=dict)
    """Names in the file by tensor name, for tied weights that the file holds only under the name of the copy."""

    def tensor(self, name: str) -> Tensor:
        """Read a tensor in the number format of its file. It is memory-mapped: treat it as read-only.

        Every call opens the file again: while a file is open, all pages read from it count as memory of this process.
        """
        with _open(self.files[name]) as file:
            return cast(Tensor, file.get_tensor(self.stored_names.get(name, name)))


def open_checkpoint(model: ModelRef) -> Checkpoint:
    """Return the checkpoint of a model; reads only the headers of its files, and tied weights to compare them.

    Raises:
        ModelError: If files are missing or damaged, or tied weights differ.
    """
    config, tied = _describe(model)
    files = _tensor_files(model.directory)
    copies = {copy: source for copy, source in tied.items() if copy in files}
    stored_names = {source: copy for copy, source in copies.items() if source not in files}
    sources = {source: files[copy] for source, copy in stored_names.items()}
    whole = Checkpoint(model, config, files | sources, stored_names)
    for copy, source in copies.items():
        if not torch.equal(whole.tensor(copy), whole.tensor(source)):
            raise ModelError(
                f"the configuration of {model.path} ties {copy!r} and {source!r}, but their values differ",
                "set tie_word_embeddings to false in its config.json",
            )
    once = {name: file for name, file in sorted(whole.files.items()) if name not in copies}
    return Checkpoint(model, config, once, stored_names)


def _describe(model: ModelRef) -> tuple[PretrainedConfig, dict[str, str]]:
    """Return the configuration, and the name of the source tensor by the name of its tied copy."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(model.path, trust_remote_code=False)
        with torch.device("meta"):
            network = auto_class(config).from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{model.path} cannot be loaded as a causal language model: {error}") from error
    return config, dict(network.all_tied_weights_keys)


def _tensor_files(folder: Path) -> dict[str, Path]:
    """Return the file of every tensor; other safetensors files in the folder, such as adapters, are ignored."""
    if (folder / WEIGHTS).is_file():
        return dict.fromkeys(_names(folder / WEIGHTS), folder / WEIGHTS)
    try:
        weight_map: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder} has neither {WEIGHTS} nor a readable {INDEX}", "save the model with save_pretrained"
        ) from error
    names = {file: _names(folder / file) for file in sorted(set(weight_map.values()))}
    for name, file in sorted(weight_map.items()):
        if name not in names[file]:
            raise ModelError(f"{folder / INDEX} places {name!r} in {file}, which has no such tensor")
    return {name: folder / file for name, file in weight_map.items()}


def _names(path: Path) -> set[str]:
    with _open(path) as file:
        return set(file.keys())


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "download or save the model again") from error
