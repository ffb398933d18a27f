"""Whether models can be merged at all: the same tensors, used in the same way, for the same tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from mixcpt.errors import ModelError
from mixcpt.merge.checkpoint import Checkpoint
from mixcpt.store.models import load_tokenizer

_USE = (
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "rope_parameters",
    "tie_word_embeddings",
)
"""Settings that decide what tensors of equal shape mean. Names of tokens and the longest text may differ."""
_TEXT_TO_TOKENS = ("normalizer", "pre_tokenizer", "model")


def require_mergeable(checkpoints: Sequence[Checkpoint]) -> None:
    """Raises `ModelError`, naming the first difference, where a model differs from the first one in more than values.

    Only headers and tokenizers are read.
    """
    first, *others = checkpoints
    for checkpoint in checkpoints:
        _require_plain_numbers(checkpoint)
    for other in others:
        _require_same_vocabulary_size(first, other)
        _require_same_use(first, other)
        _require_same_names(first, other)
        _require_same_shapes(first, other)
        _require_same_tokenizer(first, other)


def _require_plain_numbers(checkpoint: Checkpoint) -> None:
    if getattr(checkpoint.config, "quantization_config", None):
        raise ModelError(
            f"{checkpoint.model.path} is quantised: its tensors are codes, not weights",
            "merge the model as it was before quantisation",
        )


def _require_same_vocabulary_size(first: Checkpoint, other: Checkpoint) -> None:
    sizes = [checkpoint.config.get_text_config().vocab_size for checkpoint in (first, other)]
    if sizes[0] != sizes[1]:
        raise ModelError(
            f"the vocabulary has {sizes[0]} rows in {first.model.path} and {sizes[1]} in {other.model.path}",
            "one of them was padded, or tokens were added to it: bring both to one size with "
            "resize_token_embeddings and to one tokenizer, then merge",
        )


def _require_same_use(first: Checkpoint, other: Checkpoint) -> None:
    for key in _USE:
        values = [getattr(checkpoint.config.get_text_config(), key, None) for checkpoint in (first, other)]
        if values[0] != values[1]:
            raise ModelError(
                f"{key} is {values[0]} in {first.model.path} and {values[1]} in {other.model.path}: "
                "their weights do not mean the same",
                "merge models of one architecture that started from one checkpoint",
            )


def _require_same_names(first: Checkpoint, other: Checkpoint) -> None:
    if differing := sorted(first.files.keys() ^ other.files.keys()):
        name = differing[0]
        having, lacking = (first, other) if name in first.files else (other, first)
        raise ModelError(
            f"{lacking.model.path} has no tensor {name!r}, which {having.model.path} has",
            "merge models of one architecture; where only the names differ, load both and save_pretrained",
        )


def _require_same_shapes(first: Checkpoint, other: Checkpoint) -> None:
    for name in first.files:
        shapes = [tuple(checkpoint.tensor(name).shape) for checkpoint in (first, other)]
        if shapes[0] != shapes[1]:
            raise ModelError(
                f"{name!r} has shape {shapes[0]} in {first.model.path} and {shapes[1]} in {other.model.path}",
                "merge models of one size",
            )


def _require_same_tokenizer(first: Checkpoint, other: Checkpoint) -> None:
    one, two = (load_tokenizer(checkpoint.model) for checkpoint in (first, other))
    places = f"the tokenizers of {first.model.path} and {other.model.path}"
    hint = "merge models that read with one tokenizer; special roles and chat templates may differ"
    if differing := one.get_vocab().items() ^ two.get_vocab().items():
        token = min(differing, key=lambda entry: (entry[1], entry[0]))[0]
        ids = [tokenizer.get_vocab().get(token, "missing") for tokenizer in (one, two)]
        raise ModelError(f"{places} differ: the id of {token!r} is {ids[0]} in the one and {ids[1]} in the other", hint)
    for part in _TEXT_TO_TOKENS:
        if _rules(one).get(part) != _rules(two).get(part):
            raise ModelError(f"{places} differ in how text becomes tokens ({part})", hint)


def _rules(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Returns the tokenizer in its JSON form; empty for a slow one, which has none."""
    if not tokenizer.is_fast:
        return {}
    rules: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return rules
