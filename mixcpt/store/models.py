"""Models on disk: where one is, what it is, and whether it can be used, before any work starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
_USED_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]

_LEAST_USED_FRACTION = 0.75
"""Models pad their vocabulary by a few percent; a tokenizer that reaches fewer of its rows is another model's."""


@dataclass(frozen=True)
class ModelRef:
    """A model folder in the Hugging Face form, with its tokenizer."""

    name: str
    path: str
    digest: str
    """SHA-256 over weights, configuration and tokenizer."""

    @property
    def directory(self) -> Path:
        return Path(self.path)

    @property
    def max_tokens(self) -> int:
        """The longest text that the model was built for, in tokens; 0 where it does not say."""
        config = json.loads((self.directory / "config.json").read_text())
        return int(config.get("max_position_embeddings") or 0)

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "path": self.path, "digest": self.digest}

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> ModelRef:
        return cls(data["name"], data["path"], data["digest"])

    @classmethod
    def from_artifact(cls, artifact: ArtifactRef, name: str) -> ModelRef:
        """Returns the model that a training stage published (its files lie in the artifact's folder `model`)."""
        return cls(name, str(artifact.file("model")), artifact.digest)


def resolve_model(config: BaseModelConfig) -> ModelRef:
    """Returns the base model as a local folder, fetched from the hub if need be.

    Raises:
        ModelError: If there is no such model, it has no safetensors or tokenizer, or the two do not fit together.
    """
    path = _locate(config)
    _check_folder(path)
    names = sorted({file for pattern in _USED_FILES for file in path.glob(pattern)})
    digest = fingerprint({file.name: file_digest(file) for file in names})
    return ModelRef(Path(config.model).name, str(path), digest)


def digest_as_base(artifact: ArtifactRef) -> str:
    """Returns the digest that `resolve_model` gives the model of an artifact, by its record, without reading it."""
    digests = artifact.record["files"]
    names = {name: name.removeprefix("model/") for name in digests if name.startswith("model/")}
    used = {name: file for name, file in names.items() if "/" not in file and any(map(Path(file).match, _USED_FILES))}
    return fingerprint({file: digests[name] for name, file in used.items()})


def load_tokenizer(model: ModelRef, chat_template: str = "") -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a model; `chat_template` as in `BaseModelConfig`, empty for the model's own."""
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
    """Returns the model in evaluation mode, without a key-value cache: packed rows need `use_cache=False`."""
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        model.path, dtype=dtype, trust_remote_code=False, use_safetensors=True
    )
    loaded.config.use_cache = False
    return loaded.eval()  # type: ignore[no-any-return]


def read_chat_template(name: str) -> str:
    """Returns the Jinja text of a chat form: the name of one that ships with mixcpt, or a path."""
    shipped = _TEMPLATES / f"{name}.jinja"
    path = shipped if shipped.is_file() else Path(name)
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        known = ", ".join(sorted(file.stem for file in _TEMPLATES.glob("*.jinja")))
        raise ConfigError(
            f"base.chat_template {name!r} is neither a shipped form ({known}) nor a readable file"
        ) from None


def require_chat_template(model: ModelRef, chat_template: str) -> None:
    """Raises `ModelError` where the model has no chat form and the settings give none."""
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
    return _fetch(config)


def _fetch(config: BaseModelConfig) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(config.model, revision=config.revision or None, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"base.model: {config.model!r} is no local folder and the hub did not give it ({type(error).__name__})",
            "check the spelling, the network and, for a gated model, HF_TOKEN",
        ) from error


def _check_folder(path: Path) -> None:
    config = _read_json(path / "config.json", f"{path} is no model folder: it has no readable config.json")
    if not list(path.glob("*.safetensors")):
        raise ModelError(
            f"{path} has no .safetensors weights", "convert the model first; pickled weights are not loaded"
        )
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{path} has no tokenizer (tokenizer.json)", "save the tokenizer into the model's folder")
    vocab_size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size", 0)
    largest = _largest_token_id(path)
    if not _LEAST_USED_FRACTION * vocab_size <= largest + 1 <= vocab_size:
        raise ModelError(
            f"tokenizer and model of {path} do not fit: token ids go up to {largest}, the vocabulary has {vocab_size}",
            "use the tokenizer that the model was trained with",
        )


def _largest_token_id(path: Path) -> int:
    """Returns the largest id of a tokenizer, read from its file where that is JSON: importing what loads tokenizers
    takes seconds, which every flow would pay before it begins."""
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
