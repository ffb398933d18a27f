"""Damaged weights, settings, tokenizers and chat templates of a model for bad_inputs.py."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

from benchmarks.bad_input_damage import ODD_VALUES, Loss, Result, damage
from mixcpt.checks import chat_template, model_folder, packing, tokens
from mixcpt.checks.findings import Subject
from mixcpt.config import load_config
from mixcpt.store.models import CLOSED_WORLD_PATH, ModelRef, load_model, load_tokenizer, resolve_model


def copy_of_the_base(folder: Path) -> Path:
    return Path(shutil.copytree(CLOSED_WORLD_PATH, folder / "model"))


def check_model(path: Path, template: str = "") -> Result:
    """Run the checks of a model; one without problems must load, encode a chat, compute finite logits and be saved."""
    import torch

    config = load_config(None, [f"base.model={json.dumps(str(path))}", f"base.chat_template={json.dumps(template)}"])
    base = resolve_model(config.base)
    subject = Subject(config, base)
    warned: list[str] = []
    for check in (model_folder.check, tokens.check, chat_template.check, packing.check):
        findings = list(check(subject))
        problems = [finding for finding in findings if not finding.is_warning]
        if problems:
            return "refused", str(problems[0])
        warned += map(str, findings)
    _use(base, template, path.parent / "saved")
    torch.manual_seed(0)
    return ("warned", warned[0]) if warned else ("used", "")


def _use(base: ModelRef, template: str, saved: Path) -> None:
    import torch

    from mixcpt.align.chat import encode_chat, load_chat_tokenizer

    tokenizer: Any = load_tokenizer(base)
    chat = encode_chat(load_chat_tokenizer(base, template), "Where is the lamp?", "The lamp is in the garden.")
    assert chat.num_tokens > 2
    ids = tokenizer("The lamp is in the garden.", return_tensors="pt").input_ids
    with torch.no_grad():
        model = load_model(base)
        logits = model(ids).logits
    if not logits.isfinite().all():
        raise Loss("the logits of an accepted model are not finite")
    if saved.parent != CLOSED_WORLD_PATH.parent:
        model.save_pretrained(saved)
        tokenizer.save_pretrained(saved)


def weights(folder: Path, rng: random.Random) -> Result:
    """Check a model whose weights are damaged."""
    path = copy_of_the_base(folder)
    file = next(path.glob("*.safetensors"))
    content = file.read_bytes()
    if rng.random() < 0.5:
        head = damage(content[:4096], rng)
        file.write_bytes(head + content[4096:])
    else:
        file.write_bytes(damage(content, rng))
    return check_model(path)


def _change_json(file: Path, rng: random.Random) -> None:
    data: Any = json.loads(file.read_text())
    node: Any = data
    keys: list[tuple[Any, Any]] = []
    while isinstance(node, dict | list) and node and (not keys or rng.random() < 0.7):
        place: Any = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        keys.append((node, place))
        node = node[place]
    parent, place = keys[-1]
    if isinstance(parent, dict) and rng.random() < 0.2:
        del parent[place]
    else:
        parent[place] = rng.choice(ODD_VALUES)
    file.write_text(json.dumps(data))


def model_settings(folder: Path, rng: random.Random) -> Result:
    """Check a model with a changed or damaged config.json."""
    return _with_changed_file(folder, rng, ("config.json", "generation_config.json"))


def tokenizers(folder: Path, rng: random.Random) -> Result:
    """Check a model with a changed or damaged file of its tokenizer."""
    return _with_changed_file(folder, rng, ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"))


def _with_changed_file(folder: Path, rng: random.Random, candidates: tuple[str, ...]) -> Result:
    path = copy_of_the_base(folder)
    file = rng.choice([path / name for name in candidates if (path / name).is_file()])
    if rng.random() < 0.25:
        file.write_bytes(damage(file.read_bytes(), rng))
    else:
        _change_json(file, rng)
    return check_model(path)


def templates(folder: Path, rng: random.Random) -> Result:
    """Check a model with a damaged chat template."""
    from mixcpt.store.models import read_chat_template

    text = read_chat_template(rng.choice(("plain", "chatml")))
    pieces = (
        "{%",
        "%}",
        "{{",
        "}}",
        "{% if x %}",
        "raise_exception('no')",
        "messages[5]",
        "|tojson",
        "| upper",
        "eos_token",
    )
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(text) + 1)
        change = rng.randrange(4)
        if change == 0:
            text = text[:place] + rng.choice(pieces) + text[place:]
        elif change == 1:
            text = text[:place] + text[place + rng.randint(1, 30) :]
        elif change == 2:
            text = text[:place]
        else:
            text = text.replace(rng.choice(("content", "role", "assistant", "user", "message", "endfor")), "other", 1)
    file = folder / "template.jinja"
    file.write_text(text)
    return check_model(CLOSED_WORLD_PATH, str(file))
