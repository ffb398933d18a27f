"""Model folders: find, check, identify and load them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixcpt.config import CLOSED_WORLD_BASE, BaseModelConfig
from mixcpt.errors import ConfigError, ModelError
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.fingerprint import file_digest, fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CLOSED_WORLD_PATH = Path(__file__).parents[1] / "closed_world" / "base"
_TEMPLATES = Path(__file__).parents[1] / "align" / "templates"
_USED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
_LEAST_USED_FRACTION = 0.75
"""Smallest ratio of tokenizer size to vocabulary size. Models pad their vocabulary by a few percent; if the ratio is
smaller, the tokenizer belongs to another model."""


@dataclass(frozen=True)
class ModelRef:
    """Reference to a model folder in Hugging Face format, with its tokenizer."""

    name: str
    """Name for reports."""
    path: str
    digest: str
    """SHA-256 over weights, configuration and tokenizer."""

    @property
    def directory(self) -> Path:
        return Path(self.path)

    @property
    def max_tokens(self) -> int:
        """Context length of the model in tokens; 0 if its configuration states none."""
        config = json.loads((self.directory / "config.json").read_text())
        return int(config.get("max_position_embeddings") or 0)

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "path": self.path, "digest": self.digest}

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> ModelRef:
        return cls(data["name"], data["path"], data["digest"])

    @classmethod
    def from_artifact(cls, artifact: ArtifactRef, name: str) -> ModelRef:
        """Return the model of an artifact, which is in its folder `model`."""
        return cls(name, str(artifact.file("model")), artifact.digest)


def resolve_model(config: BaseModelConfig) -> ModelRef:
    """Return the base model as a local folder, after a download from the hub if it is not local.

    Raises:
        ModelError: If the model does not exist, has no safetensors or no tokenizer, or the tokenizer does not match it.
    """
    path = _locate(config)
    _check_folder(path)
    files = sorted(set(chain.from_iterable(map(path.glob, _USED_FILES))))
    digest = fingerprint({file.name: file_digest(file) for file in files})
    return ModelRef(Path(config.model).name, str(path), digest)


def digest_as_base(artifact: ArtifactRef) -> str:
    """Return the digest that `resolve_model` computes for the model of an artifact; reads only its record."""
    files = {}
    for path, digest in artifact.record["files"].items():
        folder, _, name = path.rpartition("/")
        if folder == "model" and any(map(Path(name).match, _USED_FILES)):
            files[name] = digest
    return fingerprint(files)


def load_tokenizer(model: ModelRef, chat_template: str = "") -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model and return it; an empty `chat_template` keeps the model's own template."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the tokenizer of {model.path} cannot be loaded: {error}") from error
    if chat_template:
        tokenizer.chat_template = read_chat_template(chat_template)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer  # type: ignore[no-any-return]


def load_model(model: ModelRef, *, dtype: str = "float32") -> PreTrainedModel:
    """Load a model and return it in evaluation mode, without a key-value cache, which packed rows cannot use."""
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        model.path, dtype=dtype, trust_remote_code=False, use_safetensors=True
    )
    loaded.config.use_cache = False
    return loaded.eval()  # type: ignore[no-any-return]


def read_chat_template(name: str) -> str:
    """Return the text of a chat template, given by the name of a template of mixcpt or by a path."""
    shipped = _TEMPLATES / f"{name}.jinja"
    path = shipped if shipped.is_file() else Path(name)
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        known = ", ".join(sorted(file.stem for file in _TEMPLATES.glob("*.jinja")))
        raise ConfigError(
            f"base.chat_template {name!r} is neither a template of mixcpt ({known}) nor a readable file"
        ) from None


def require_chat_template(model: ModelRef, chat_template: str) -> None:
    """Raise `ModelError` if neither the model nor the settings have a chat template."""
    if not load_tokenizer(model, chat_template).chat_template:
        raise ModelError(
            f"the tokenizer of {model.path} has no chat template, which format alignment needs",
            "set base.chat_template to plain, chatml or the path of a Jinja file",
        )


def _locate(config: BaseModelConfig) -> Path:
    if config.model == CLOSED_WORLD_BASE:
        return CLOSED_WORLD_PATH
    folder = Path(config.model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if folder.is_absolute() or config.model.startswith((".", "~")):
        raise ModelError(f"base.model: there is no folder {config.model}", "check the path")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(config.model, revision=config.revision or None, allow_patterns=_USED_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"base.model: {config.model!r} is not a local folder, and its download failed ({type(error).__name__})",
            "check the spelling, the network and, for a gated model, HF_TOKEN",
        ) from error


def _check_folder(path: Path) -> None:
    config = _read_json(path / "config.json", f"{path} is not a model folder: it has no readable config.json")
    if not list(path.glob("*.safetensors")):
        raise ModelError(
            f"{path} has no .safetensors weights", "convert the model to safetensors; pickled weights are not loaded"
        )
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{path} has no tokenizer (tokenizer.json)", "save the tokenizer in the folder of the model")
    vocab_size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size", 0)
    largest = _largest_token_id(path)
    if not _LEAST_USED_FRACTION * vocab_size <= largest + 1 <= vocab_size:
        raise ModelError(
            f"tokenizer and model of {path} do not match: "
            f"token ids go up to {largest}, the vocabulary has {vocab_size}",
            "use the tokenizer that the model was trained with",
        )


def _largest_token_id(path: Path) -> int:
    """Return the largest token id. It is read from tokenizer.json if that exists, because the import of transformers
    takes seconds before every run."""
    file = path / "tokenizer.json"
    if not file.is_file():
        return max(load_tokenizer(ModelRef(path.name, str(path), "")).get_vocab().values())
    problem = f"the tokenizer of {path} cannot be loaded"
    tokenizer = _read_json(file, problem)
    try:
        vocab, added = tokenizer["model"]["vocab"], tokenizer.get("added_tokens", ())
        ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))  # unigram models have a list
        return int(max([*ids, *(token["id"] for token in added)]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(problem, "check its tokenizer.json") from error


def _read_json(path: Path, problem: str) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(problem, "check base.model") from error
    return data
