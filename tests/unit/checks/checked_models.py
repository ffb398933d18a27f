"""Runs on copies of a tiny model that tests damage, and tiny random models of other families."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mixcpt.checks.findings import Finding, Subject
from mixcpt.config import AdaptConfig, AlignConfig, BaseModelConfig, MixtureConfig, SelectionConfig
from mixcpt.store.models import ModelRef, resolve_model

Check = Callable[[Subject], Iterator[Finding]]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}


def subject(folder: Path, *, name: str = "tried", chat_template: str = "", row_tokens: int = 64) -> Subject:
    """Return a run on a model folder."""
    base = BaseModelConfig(model=str(folder), chat_template=chat_template)
    config = AdaptConfig(name=name, base=base, mixture=MixtureConfig(row_tokens=row_tokens))
    return Subject(config, resolve_model(base))


def without_chat(checked: Subject) -> Subject:
    """Return the same run without alignment."""
    align = AlignConfig(selection=SelectionConfig(num_instructions=0, num_preferences=0))
    return Subject(checked.config.model_copy(update={"align": align}), checked.base)


def problems(check: Check, checked: Subject) -> list[str]:
    return [str(finding) for finding in check(checked) if not finding.is_warning]


def warnings(check: Check, checked: Subject) -> list[str]:
    return [str(finding) for finding in check(checked) if finding.is_warning]


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None removes one."""
    data = json.loads(path.read_text()) if path.is_file() else {}
    data = {key: value for key, value in (data | changes).items() if value is not None}
    path.write_text(json.dumps(data))


def write_family(tiny: ModelRef, folder: Path, family: str, **settings: Any) -> Path:
    """Write a tiny random model of a family with the tokenizer of the tiny model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(tiny.path, folder)
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)
    vocab_size = json.loads((tiny.directory / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{"vocab_size": vocab_size, **SIZES, **settings})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
