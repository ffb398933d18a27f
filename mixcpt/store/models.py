"""Model folders: find, check, identify and load them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixcpt.config import CLOSED_WORLD_BASE, BaseModelConfig
from mixcpt.errors import ConfigError, ModelError
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.digest_cache import cached_digest
from mixcpt.store.fingerprint import fingerprint

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

CLOSED_WORLD_PATH = Path(__file__).parents[1] / "closed_world" / "base"
_TEMPLATES = Path(__file__).parents[1] / "align" / "templates"
_USED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
_USED_FILES_BUT_WEIGHTS = [pattern for pattern in _USED_FILES if pattern != "*.safetensors"]
_OTHER_WEIGHTS = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "*.onnx"]
_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
"""Roles of tokens that training and generation use."""
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
        limit = json.loads((self.directory / "config.json").read_text()).get("max_position_embeddings")
        return limit if isinstance(limit, int) else 0

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "path": self.path, "digest": self.digest}

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> ModelRef:
        return cls(data["name"], data["path"], data["digest"])

    @classmethod
    def from_artifact(cls, artifact: ArtifactRef, name: str) -> ModelRef:
        """Return the model of an artifact, which is in its folder `model`."""
        return cls(name, str(artifact.file("model")), artifact.digest)


def resolve_model(config: BaseModelConfig, *, needs_weights: bool = True) -> ModelRef:
    """Return the base model as a local folder, after a download from the hub if it is not local.

    Args:
        config: Name or folder of the model.
        needs_weights: Whether a folder without weights is refused, and weights are downloaded.

    Raises:
        ModelError: If the model does not exist, has no safetensors or no tokenizer, or the tokenizer does not match it.
    """
    path = find_model(config, needs_weights=needs_weights).directory
    try:
        files = sorted(set(chain.from_iterable(map(path.glob, _USED_FILES))))
        digest = fingerprint({file.name: cached_digest(file) for file in files})
    except OSError as error:
        raise _unreadable(path, error) from error
    return ModelRef(Path(config.model).name, str(path), digest)


def find_model(config: BaseModelConfig, *, needs_weights: bool = True) -> ModelRef:
    """Return the base model as `resolve_model` does, without its digest, which takes a minute for large weights.

    Args:
        config: Name or folder of the model.
        needs_weights: Whether a folder without weights is refused, and weights are downloaded.

    Raises:
        ModelError: As `resolve_model`.
    """
    path = _locate(config, needs_weights=needs_weights)
    try:
        _check_folder(path, needs_weights=needs_weights)
    except OSError as error:
        raise _unreadable(path, error) from error
    return ModelRef(Path(config.model).name, str(path), "")


def _unreadable(path: Path, error: OSError) -> ModelError:
    return ModelError(f"base.model: a file of {path} cannot be read: {error}", "check the files of the model")


def digest_as_base(artifact: ArtifactRef) -> str:
    """Return the digest that `resolve_model` computes for the model of an artifact; reads only its record."""
    files = {}
    for path, digest in artifact.record["files"].items():
        folder, _, name = path.rpartition("/")
        if folder == "model" and any(map(Path(name).match, _USED_FILES)):
            files[name] = digest
    return fingerprint(files)


def load_tokenizer(model: ModelRef, chat_template: str = "") -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model and return it; an empty `chat_template` keeps the model's own template.

    Added tokens without a row in the embeddings are left out: text that contains one is read as ordinary text.

    Raises:
        ModelError: If the tokenizer cannot be loaded, or a token with a role, such as EOS, has no row.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.path, trust_remote_code=False)
    except Exception as error:  # damaged files raise errors of any kind
        raise ModelError(
            f"the tokenizer of {model.path} cannot be loaded: {first_line(error)}",
            "download the files of its tokenizer again",
        ) from error
    length = tokenizer.model_max_length
    if not isinstance(length, int | float):
        raise ModelError(
            f"the tokenizer of {model.path} has a model_max_length that is no number: {str(length)[:40]}",
            "correct it in tokenizer_config.json",
        )
    _use_embedded_tokens(tokenizer, model.directory)
    if chat_template:
        tokenizer.chat_template = read_chat_template(chat_template)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer  # type: ignore[no-any-return]


def load_model(model: ModelRef, *, dtype: str = "float32") -> PreTrainedModel:
    """Load a model and return it in evaluation mode, without a key-value cache, which packed rows cannot use.

    Raises:
        ModelError: If the files are damaged, contain no weights for a part of the model, or values that are not finite.
    """
    from mixcpt.store.finite_weights import require_finite_weights

    loaded = load_weights(model, dtype=dtype)
    require_finite_weights(loaded, model.directory)
    loaded.config.use_cache = False
    return loaded.eval()  # type: ignore[no-any-return]


def load_weights(model: ModelRef, *, dtype: str = "float32", **options: Any) -> PreTrainedModel:
    """Load a model as transformers does, and return it; `options` are passed to `from_pretrained`.

    Raises:
        ModelError: If the files are damaged, or contain no weights for a part of the model.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model.path, trust_remote_code=False)
        result: Any = auto_class(config).from_pretrained(
            model.path,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # damaged files raise errors of any kind
        raise ModelError(
            f"the model in {model.path} cannot be loaded: {first_line(error)}",
            "check its config.json and its weights, or download it again",
        ) from error
    loaded, report = result
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"the weights in {model.path} lack {len(missing)} tensors of {type(loaded).__name__}, such as {missing[0]}",
            "download all weight files again; config.json must describe the same model",
        )
    return loaded  # type: ignore[no-any-return]


def auto_class(config: PretrainedConfig) -> Any:
    """Return the class of transformers that loads a model whole: with its vision part if it has one."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    kind = config.model_type
    with_vision = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind)
    is_whole = with_vision in (config.architectures or ()) or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return AutoModelForImageTextToText if with_vision and is_whole else AutoModelForCausalLM


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def num_embeddings(folder: Path) -> int:
    """Return the number of rows of the input embeddings, by config.json; 0 if it does not state it."""
    config = _read_json(folder / "config.json", f"{folder} has no readable config.json")
    text = config.get("text_config")
    for part in (text if isinstance(text, dict) else {}, config):
        if isinstance(size := part.get("vocab_size"), int):
            return size
    return 0


def _use_embedded_tokens(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Remove added tokens past the end of the embeddings from a tokenizer; refuse them in a role."""
    rows = num_embeddings(folder)
    past_end = {token for token, index in tokenizer.get_added_vocab().items() if index >= rows > 0}
    if not past_end:
        return
    roles = {role: str(token) for role, token in tokenizer.special_tokens_map.items() if role in _ROLES}
    if used := {role: token for role, token in roles.items() if token in past_end}:
        ids = [f"{role} {token!r} has id {tokenizer.convert_tokens_to_ids(token)}" for role, token in used.items()]
        raise ModelError(
            f"the tokenizer of {folder} has tokens past the end of the embeddings, which have {rows} rows: "
            f"{', '.join(ids)}",
            f"set {' and '.join(used)} in its tokenizer_config.json to tokens with an id below {rows}",
        )
    if tokenizer.is_fast:
        _remove_added(tokenizer, past_end)


def _remove_added(tokenizer: PreTrainedTokenizerBase, removed: Set[str]) -> None:
    from tokenizers import Tokenizer

    data = json.loads(tokenizer.backend_tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] not in removed]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer._extra_special_tokens = [token for token in tokenizer._extra_special_tokens if str(token) not in removed]


def read_chat_template(name: str) -> str:
    """Return the text of a chat template, given by the name of a template of mixcpt or by a path."""
    shipped = _TEMPLATES / f"{name}.jinja"
    path = shipped if shipped.is_file() else Path(name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
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


def _locate(config: BaseModelConfig, *, needs_weights: bool) -> Path:
    if config.model == CLOSED_WORLD_BASE:
        return CLOSED_WORLD_PATH
    try:
        folder = Path(config.model).expanduser()
        if folder.is_dir():
            return folder.resolve()
        is_file = folder.is_file()
    except (OSError, RuntimeError) as error:  # a name that is too long, a home folder that does not exist
        raise ModelError(f"base.model: {config.model[:200]} is not a path: {error}", "check the path") from error
    if is_file:
        raise ModelError(f"base.model: {config.model} is a file", "name the folder of the model")
    if folder.is_absolute() or config.model.startswith((".", "~")):
        raise ModelError(f"base.model: there is no folder {config.model}", "check the path")
    return _download(config, _USED_FILES if needs_weights else _USED_FILES_BUT_WEIGHTS)


def _download(config: BaseModelConfig, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(config.model, revision=config.revision or None, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"base.model: {config.model!r} is not a local folder, and its download failed ({type(error).__name__})",
            "check the spelling, the network and, for a gated model, HF_TOKEN",
        ) from error


def _check_folder(path: Path, *, needs_weights: bool) -> None:
    if (path / "adapter_config.json").is_file():
        raise ModelError(
            f"{path} is an adapter (adapter_config.json), not a model",
            "load it with peft, call merge_and_unload(), save the result with its tokenizer, and name that folder",
        )
    used = sorted(chain.from_iterable(map(path.glob, _USED_FILES)))
    if odd := [file for file in used if not file.is_file()]:  # a pipe would never end
        raise ModelError(
            f"base.model: {odd[0]} is no file, but a folder, a pipe, or a link to a missing file",
            "download the files of the model again",
        )
    _read_json(path / "config.json", f"{path} is not a model folder: it has no readable config.json")
    if needs_weights:
        _check_weights(path)
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{path} has no tokenizer (tokenizer.json)", "save the tokenizer in the folder of the model")
    _check_vocabulary(path)


def _check_weights(path: Path) -> None:
    if any(path.glob("*.safetensors")) or (path / "model.safetensors.index.json").is_file():
        return
    others = sorted(file.name for file in chain.from_iterable(map(path.glob, _OTHER_WEIGHTS)))
    if not others:
        raise ModelError(
            f"{path} has no weights (model.safetensors)",
            "download all files of the model; only `mixcpt plan --no-dry-run` needs no weights",
        )
    raise ModelError(
        f"{path} has {others[0]} but no .safetensors weights",
        "convert the model to safetensors with from_pretrained and save_pretrained; no other format is loaded",
    )


def _check_vocabulary(path: Path) -> None:
    vocab_size = num_embeddings(path)
    if not vocab_size:
        return  # transformers knows the default of the model's family
    largest = _largest_token_id(path, vocab_size)
    if not _LEAST_USED_FRACTION * vocab_size <= largest + 1 <= vocab_size:
        raise ModelError(
            f"tokenizer and model of {path} do not match: "
            f"token ids go up to {largest}, the vocabulary has {vocab_size}",
            "use the tokenizer that the model was trained with; if you added tokens to it, call "
            "model.resize_token_embeddings and save the model",
        )


def _largest_token_id(path: Path, vocab_size: int) -> int:
    """Return the largest id of a token that text can contain.

    It is read from tokenizer.json if that exists, because the import of transformers takes seconds before every run.
    Special tokens past the end of the embeddings are not counted, because no text produces them.
    """
    file = path / "tokenizer.json"
    if not file.is_file():
        return max(load_tokenizer(ModelRef(path.name, str(path), "")).get_vocab().values())
    problem = f"the tokenizer of {path} cannot be loaded"
    tokenizer = _read_json(file, problem)
    try:
        vocab, added = tokenizer["model"]["vocab"], tokenizer.get("added_tokens") or ()
        ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))  # unigram models have a list
        used = [token["id"] for token in added if token["id"] < vocab_size or not token.get("special")]
        return int(max([*ids, *used]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(problem, "check its tokenizer.json") from error


def _read_json(path: Path, problem: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{problem} ({path.name}: {first_line(error)})", "check base.model") from error
    if not isinstance(data, dict):
        raise ModelError(f"{problem} ({path.name} is not a JSON object)", "check base.model")
    return data
