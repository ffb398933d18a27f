"""The key of a mixture, computed without torch and, for most models, without transformers.

transformers changes some tokenizers while it loads them. `read_form` covers the files that it takes as they are and
repeats its one change to them; every other tokenizer is loaded through transformers, so that a digest never depends
on the path taken.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from mixcpt.config import MixtureConfig, StreamConfig
from mixcpt.mixture.readings import recipes
from mixcpt.mixture.tokens import TextTokenizer, require_row_fits
from mixcpt.store.artifacts import ArtifactRef, StageKey
from mixcpt.store.fingerprint import fingerprint
from mixcpt.store.models import ModelRef

_VERSION = 2
_GENERIC_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Tokenizer classes that use tokenizer.json as it is; most model families have a class that rebuilds it."""
PLAIN_MODEL_TYPES = frozenset(
    {"bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "olmo2", "opt"}
    | {"phi", "qwen3", "smollm3", "stablelm"}
)
"""Model types for which transformers uses a generic class if tokenizer_config.json names one. For others, such as
qwen2, it may use another class."""
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_TOKEN_LISTS = ("extra_special_tokens", "additional_special_tokens")
_WITHOUT_EFFECT = (
    *("tokenizer_class", "backend", "is_local", "local_files_only", "chat_template", "added_tokens_decoder"),
    *("clean_up_tokenization_spaces", "model_max_length", "model_input_names", "padding_side", "truncation_side"),
    *("add_bos_token", "add_eos_token", "add_prefix_space"),
)
"""Keys of tokenizer_config.json that do not change a generic tokenizer on plain text."""


def mixture_key(
    config: MixtureConfig, streams: Sequence[StreamConfig], corpus: ArtifactRef, base: ModelRef, *, seed: int
) -> StageKey:
    """Return the key of a mixture.

    Only the tokenizer of the base model is part of it, so models with the same tokenizer share a mixture. Only the
    recipes of the streams are part of it, so methods that differ in their loss share a mixture.

    Raises:
        ConfigError: If a row is longer than the model's context. A model with another context may share the key.
        ModelError: If the tokenizer cannot be loaded.
    """
    require_row_fits(config.row_tokens, base)
    return StageKey(
        kind="mixture",
        version=_VERSION,
        settings={
            "mixture": config.model_dump(mode="json", exclude={"weights", "total_tokens"}),
            "streams": [recipe.identity() for recipe in recipes(config, streams)],
            "seed": seed,
        },
        inputs={"corpus": corpus.digest, "tokenizer": tokenizer_digest(base)},
    )


@dataclass(frozen=True)
class TokenizerForm:
    """The parts of a tokenizer that decide the tokens of plain text."""

    backend: str
    """JSON text of the `tokenizers.Tokenizer`."""
    bos: list[int]
    """Id of the beginning-of-text token; empty if there is none."""
    eos: list[int]
    """Id of the end-of-text token; empty if there is none."""
    padding_id: int

    @property
    def digest(self) -> str:
        """SHA-256 of the form. Names, chat template and weights play no part."""
        return fingerprint({"tokenizer": self.backend, "bos": self.bos, "eos": self.eos, "padding": self.padding_id})


def tokenizer_digest(model: ModelRef) -> str:
    """Return the digest of a model's tokenizer for plain text; raise `ModelError` if it is slow or cannot be loaded."""
    return (read_form(model.directory) or loaded_form(model)).digest


def loaded_form(model: ModelRef) -> TokenizerForm:
    """Return the form of a tokenizer as transformers loads it."""
    text_tokenizer = TextTokenizer(model)
    backend = text_tokenizer.tokenizer.backend_tokenizer.to_str()
    return TokenizerForm(backend, text_tokenizer.bos, text_tokenizer.eos, padding_id=text_tokenizer.padding_id)


def read_form(folder: Path) -> TokenizerForm | None:
    """Return the form of the tokenizer in a model folder, or None if transformers may change it while loading."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.processors import TemplateProcessing

    settings = _read_json(folder / "tokenizer_config.json")
    if not (folder / "tokenizer.json").is_file() or not _is_generic(folder, settings):
        return None
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if backend.truncation or backend.padding:
        return None
    # transformers adds declared tokens and special tokens that tokenizer.json lacks or has with other properties.
    added = backend.get_added_tokens_decoder()
    declared = [AddedToken(**token) for token in settings.get("added_tokens_decoder", {}).values()]
    if not set(map(repr, declared)) <= set(map(repr, added.values())):
        return None
    added_ids = {token.content: index for index, token in added.items()}
    named = _named_tokens(folder, settings)
    if not {*named.values(), *_listed_tokens(folder, settings)} <= added_ids.keys():
        return None
    if backend.post_processor is None:  # transformers sets this neutral one
        backend.post_processor = TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    ids = {name: added_ids[token] for name, token in named.items()}
    return TokenizerForm(
        backend=backend.to_str(),
        bos=[ids["bos_token"]] if "bos_token" in ids else [],
        eos=[ids["eos_token"]] if "eos_token" in ids else [],
        padding_id=ids.get("pad_token", ids.get("eos_token", 0)),  # `load_tokenizer` pads with EOS by default
    )


def _is_generic(folder: Path, settings: dict[str, Any]) -> bool:
    """Return whether transformers loads tokenizer.json with a generic class and no further settings."""
    config = _read_json(folder / "config.json")
    special_tokens = _special_tokens_map(folder, settings)
    lists = [tokens[name] for tokens, name in product((settings, special_tokens), _TOKEN_LISTS) if name in tokens]
    return (
        settings.get("tokenizer_class") in _GENERIC_CLASSES
        and settings.keys() <= {*_WITHOUT_EFFECT, *_NAMED_TOKENS, *_TOKEN_LISTS}
        and special_tokens.keys() <= {*_NAMED_TOKENS, *_TOKEN_LISTS}
        and not any(isinstance(tokens, dict) for tokens in lists)  # names of its own for these tokens
        and ("model_type" not in config or config["model_type"] in PLAIN_MODEL_TYPES)
        and not {"auto_map", "model_name"} & config.keys()
        and not (folder / "added_tokens.json").exists()
    )


def _special_tokens_map(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return special_tokens_map.json, which transformers ignores if `added_tokens_decoder` is in the settings."""
    return {} if "added_tokens_decoder" in settings else _read_json(folder / "special_tokens_map.json")


def _named_tokens(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Return the text of every named special token, such as `bos_token`, that is set."""
    tokens = {**settings, **_special_tokens_map(folder, settings)}
    return {name: _content(tokens[name]) for name in _NAMED_TOKENS if tokens.get(name) is not None}


def _listed_tokens(folder: Path, settings: dict[str, Any]) -> Iterator[str]:
    """Yield the text of every special token that has no name."""
    for tokens in (settings, _special_tokens_map(folder, settings)):
        for name in _TOKEN_LISTS:
            yield from map(_content, tokens.get(name) or ())


def _content(token: str | dict[str, Any]) -> str:
    return token["content"] if isinstance(token, dict) else token


def _read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}  # type: ignore[no-any-return]
