"""Check of the files of a model: weights, quantisation, architecture, custom code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mixcpt.checks.findings import Finding, Subject
from mixcpt.checks.loading import load_architecture, load_skeleton
from mixcpt.checks.weight_files import file_problems, value_problems
from mixcpt.errors import ModelError
from mixcpt.store.models import ModelRef

_OTHER_MODEL = "choose a decoder-only model, such as Llama or Qwen"


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of the files of the base model."""
    base = subject.base
    if not base:
        return
    config = json.loads((base.directory / "config.json").read_text(encoding="utf-8"))
    problems = [*_architecture_problems(subject, base, config), *file_problems(base.directory)]
    yield from problems or [*value_problems(base.directory), *_loading_problems(base)]


def _architecture_problems(subject: Subject, base: ModelRef, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the reasons why transformers cannot train a model of this architecture."""
    file = base.directory / "config.json"
    if method := _quantisation(config):
        yield Finding(
            problem=f"base.model: {file} has quantization_config: the weights are quantised ({method}) "
            "and cannot be trained",
            remedy="use the model's original weights in bfloat16, float16 or float32",
        )
        return
    if type_problem := _type_problem(config):
        yield Finding(problem=f"base.model: {file} has {type_problem}", remedy=_OTHER_MODEL)
        return
    if not isinstance(names := config.get("architectures") or [], list):
        yield Finding(
            problem=f"base.model: {file} has architectures: {str(names)[:40]!r}, which must be a list of names",
            remedy="write the name of the model's class in a list, or download config.json again",
        )
        return
    if subject.architecture is None:
        yield from _configuration_problem(base)
    elif subject.architecture.is_encoder_decoder:
        yield Finding(
            problem=f"base.model: {base.path} is an encoder-decoder model (is_encoder_decoder: true)",
            remedy=_OTHER_MODEL,
        )
    elif only := _only_fills_gaps(names):
        yield Finding(
            problem=f"base.model: {file} has architectures: {only}, which reads text in both directions "
            "and cannot continue it",
            remedy=_OTHER_MODEL,
        )


def _configuration_problem(base: ModelRef) -> Iterator[Finding]:
    try:
        load_architecture(base)
    except ModelError as error:
        yield Finding.of(error)


def _quantisation(config: Mapping[str, Any]) -> str:
    """Return the method of quantisation; empty without one."""
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and (settings := part.get("quantization_config")):
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            return str(method or "unknown method")
    return ""


def _type_problem(config: Mapping[str, Any]) -> str:
    """Return why transformers has no class for a type of model; empty if it has one."""
    from transformers import CONFIG_MAPPING, __version__
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    name = config.get("model_type")
    if not isinstance(name, str) or not name:
        return "no model_type"
    if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return ""
    if name in CONFIG_MAPPING:
        return f"model_type {name}, which transformers {__version__} does not offer as a language model"
    if config.get("auto_map"):
        return f"model_type {name} with auto_map: the model needs its own Python code, which is never run"
    return f"model_type {name}, which transformers {__version__} does not know"


def _only_fills_gaps(names: Sequence[Any]) -> str:
    """Return the architecture that is a masked language model; empty if none is."""
    return next((str(name) for name in names if str(name).endswith(("ForMaskedLM", "ForPreTraining"))), "")


def _loading_problems(base: ModelRef) -> Iterator[Finding]:
    """Yield a problem if weights and config.json do not fit together."""
    try:
        load_skeleton(base)
    except ModelError as error:
        yield Finding(problem=f"base.model: {error.problem}", remedy=error.hint)
