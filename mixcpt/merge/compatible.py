"""Checks whether models can be merged: they need the same tensors with the same meaning, and the same tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from mixcpt.errors import ModelError
from mixcpt.merge.checkpoint import Checkpoint
from mixcpt.store.models import load_tokenizer

_MEANING_KEYS = (
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "rope_parameters",
    "tie_word_embeddings",
)
"""Configuration keys that decide the meaning of equal shapes; special tokens and the maximum length may differ."""
_TOKENIZER_PARTS = ("normalizer", "pre_tokenizer", "model")


def require_mergeable(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise `ModelError` if a model differs from the first one in more than its values; it names the first difference.

    Only headers and tokenizers are read.
    """
    first, *others = checkpoints
    for checkpoint in checkpoints:
        _require_unquantised(checkpoint)
    for other in others:
        _require_same_vocabulary_size(first, other)
        _require_same_meaning(first, other)
        _require_same_names(first, other)
        _require_same_shapes(first, other)
        _require_same_tokenizer(first, other)


def _require_unquantised(checkpoint: Checkpoint) -> None:
    if getattr(checkpoint.config, "quantization_config", None):
        raise ModelError(
            f"{checkpoint.model.path} is quantised: its tensors are codes, not weights",
            "merge the model from before quantisation",
        )


def _require_same_vocabulary_size(first: Checkpoint, other: Checkpoint) -> None:
    sizes = [checkpoint.config.get_text_config().vocab_size for checkpoint in (first, other)]
    if sizes[0] != sizes[1]:
        raise ModelError(
            f"the vocabulary has {sizes[0]} rows in {first.model.path} and {sizes[1]} in {other.model.path}",
            "padding or added tokens changed one of them: bring both to one size with "
            "resize_token_embeddings and to one tokenizer, then merge",
        )


def _require_same_meaning(first: Checkpoint, other: Checkpoint) -> None:
    for key in _MEANING_KEYS:
        values = [getattr(checkpoint.config.get_text_config(), key, None) for checkpoint in (first, other)]
        if values[0] != values[1]:
            raise ModelError(
                f"{key} is {values[0]} in {first.model.path} and {values[1]} in {other.model.path}: "
                "their weights have different meanings",
                "merge models of one architecture that started from one checkpoint",
            )


def _require_same_names(first: Checkpoint, other: Checkpoint) -> None:
    if differing := sorted(first.files.keys() ^ other.files.keys()):
        name = differing[0]
        having, lacking = (first, other) if name in first.files else (other, first)
        raise ModelError(
            f"{lacking.model.path} has no tensor {name!r}, which {having.model.path} has",
            "merge models of one architecture; if only the names differ, load both and save_pretrained",
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
    ours, theirs = (load_tokenizer(checkpoint.model) for checkpoint in (first, other))
    subject = f"the tokenizers of {first.model.path} and {other.model.path}"
    hint = "merge models with the same tokenizer; special roles and chat templates may differ"
    if differing := ours.get_vocab().items() ^ theirs.get_vocab().items():
        token = min(differing, key=lambda entry: (entry[1], entry[0]))[0]
        ids = [tokenizer.get_vocab().get(token, "missing") for tokenizer in (ours, theirs)]
        raise ModelError(
            f"{subject} differ: the id of {token!r} is {ids[0]} in the first and {ids[1]} in the second", hint
        )
    for part in _TOKENIZER_PARTS:
        if _rules(ours).get(part) != _rules(theirs).get(part):
            raise ModelError(f"{subject} differ in how text becomes tokens ({part})", hint)


def _rules(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the JSON form of the tokenizer; empty for a slow tokenizer, which has none."""
    if not tokenizer.is_fast:
        return {}
    rules: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return rules
