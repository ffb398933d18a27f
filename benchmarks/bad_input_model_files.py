"""Damaged files of a model: index of weights, fields, templates, generation settings, added tokens."""

import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bad_input_damage import ODD_VALUES, Result, damage
from benchmarks.bad_input_models import check_model, copy_of_the_base
from mixcpt.checks.weight_files import INDEX, WEIGHTS
from mixcpt.store.models import read_chat_template


def weight_indexes(folder: Path, rng: random.Random) -> Result:
    """Check a model whose index names missing, outside, repeated or damaged files."""
    path = copy_of_the_base(folder)
    names = _split(path)
    shards = sorted(set(names.values()))
    tensor = rng.choice(list(names))
    index: Any = {"metadata": {"total_size": 1}, "weight_map": names}
    odd = rng.choice(ODD_VALUES)
    outside = rng.choice(("../outside.safetensors", "/etc/passwd", "sub/one.safetensors", "", ".", "..", "a\x00b"))
    changes: Sequence[Callable[[], Any]] = (
        lambda: names.update({tensor: "absent.safetensors"}),
        lambda: names.update({tensor: outside}),
        lambda: names.update({tensor: odd}),
        lambda: names.update({"no.such.tensor": shards[0]}),
        lambda: names.update({tensor: shards[names[tensor] == shards[0]]}),
        lambda: names.pop(tensor),
        names.clear,
        lambda: index.update({"metadata": odd}),
        lambda: index.update({"weight_map": odd}),
        lambda: index.pop(rng.choice(("metadata", "weight_map"))),
        lambda: (path / shards[0]).unlink(),
        lambda: _replace(path / shards[0], lambda file: file.mkdir()),
        lambda: _replace(path / shards[0], lambda file: file.symlink_to(file)),
        lambda: _replace(path / shards[0], lambda file: file.symlink_to("absent")),
        lambda: _replace(path / shards[0], os.mkfifo),
        lambda: os.link(path / shards[0], path / WEIGHTS),
        lambda: (path / shards[0]).write_bytes((path / shards[1]).read_bytes()),
        lambda: (path / shards[0]).write_bytes(b""),
    )
    rng.choice(changes)()
    content = json.dumps(rng.choice((index, index, index, index, index, odd))).encode()
    (path / INDEX).write_bytes(damage(content, rng) if rng.random() < 0.15 else content)
    return check_model(path)


def _replace(file: Path, make: Callable[[Path], object]) -> None:
    file.unlink()
    make(file)


def _split(path: Path) -> dict[str, Any]:
    """Divide the weights into two files, and return the names of all tensors with their files."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / WEIGHTS)
    (path / WEIGHTS).unlink()
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, half in halves.items():
        save_file({name: tensors[name] for name in half}, path / file, metadata={"format": "pt"})
    return {name: file for file, half in halves.items() for name in half}


def config_fields(folder: Path, rng: random.Random) -> Result:
    """Check a model whose config.json has fields of wrong types, or fields that other families have."""
    path = copy_of_the_base(folder)
    file = path / "config.json"
    data = json.loads(file.read_text())
    added = (
        *("rope_scaling", "rope_parameters", "quantization_config", "auto_map", "text_config", "vision_config"),
        *(
            "torch_dtype",
            "dtype",
            "attn_implementation",
            "layer_types",
            "sliding_window",
            "num_experts",
            "pad_token_id",
        ),
        *("transformers_version", "tie_word_embeddings", "is_encoder_decoder", "architectures", "initializer_range"),
    )
    for _ in range(rng.randint(1, 2)):
        data[rng.choice((*data, *added))] = rng.choice(
            (*ODD_VALUES, "llama", "float8", -7, 3.5, {"type": "x"}, [1, "a"])
        )
    file.write_text(json.dumps(data))
    return check_model(path)


_TEMPLATES = (
    *("{% for m in messages %}{{ m.content }", "{% for i in range(10**9) %}x{% endfor %}", "{{ 'x' * 10**10 }}"),
    *("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "{{ 10**10**8 }}", "{{ bos }}"),
    *("{{ tools[0].name }}", "{{ raise_exception('no') }}", "{{ messages[99].content }}", "{{ documents | length }}"),
    *("{% include 'other' %}", "{% extends 'base' %}", "{{ ''.__class__.__mro__ }}", "{{ strftime_now('%Y') }}", ""),
    *("{% set ns = namespace(x='x' * 999) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "{{"),
    *("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ messages | tojson }}", "{{ cycler | list }}", "\x00"),
    *(
        "{% for a in range(999) recursive %}{{ loop([1]) }}{% endfor %}",
        "{{ messages.append(1) }}",
        "{{ lipsum(9999) }}",
    ),
    *("{{ '%999999999d' % 1 }}", "{{ 'x'.ljust(9999999999) }}", "{{ 'x'.center(9**9**9) }}", "{{ 2 ** 9 ** 9 ** 9 }}"),
    *("{{ '{:>9999999999}'.format(1) }}", "{{ (range(99999) | list) * 99999 }}", "{{ 1 << 9999999999999 }}"),
    *("{{ 'x' | center(9999999999) }}", "{{ 'a\n' | indent(999999999) }}", "{{ '%s' | format('x') * 99999999999 }}"),
    *("{{ messages[1]['content'] if messages[1] is defined else 1/0 }}", "{% generation %}x{% endgeneration %}"),
)
"""Templates with an error of syntax, without an end, of unbounded size, with unknown variables or forbidden access."""


def template_files(folder: Path, rng: random.Random) -> Result:
    """Check a model whose chat template, in any place that can have it, fails, never ends or grows too large."""
    path = copy_of_the_base(folder)
    whole = read_chat_template(rng.choice(("plain", "chatml")))
    odd = rng.choice(_TEMPLATES)
    half = len(whole) // 2
    template = rng.choice((odd, odd, odd + whole, whole + odd, whole[:half] + odd + whole[half:]))
    file = path / "chat_template.jinja"
    settings_file = path / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text())
    place = rng.randrange(6)
    if place < 3:
        file.write_bytes(template.encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16"))))
    elif place == 3:
        file.unlink()
        named = [{"name": rng.choice(("default", "other")), "template": template}]
        settings["chat_template"] = rng.choice((template, named, [], {"default": template}, rng.choice(ODD_VALUES)))
        settings_file.write_text(json.dumps(settings))
    elif place == 4:
        _replace(file, rng.choice((Path.mkdir, lambda file: file.symlink_to(file), os.mkfifo)))
    else:
        (path / "additional_chat_templates").mkdir()
        (path / "additional_chat_templates" / rng.choice(("default.jinja", "other.jinja"))).write_text(template)
    return check_model(path)


def generation_settings(folder: Path, rng: random.Random) -> Result:
    """Check a model whose generation_config.json is broken, or has fields that contradict each other."""
    path = copy_of_the_base(folder)
    file = path / "generation_config.json"
    data = json.loads(file.read_text())
    odd = {
        **{"temperature": 0.7, "top_p": 2.0, "top_k": "x", "do_sample": False, "num_beams": 0, "max_length": -1},
        **{"max_new_tokens": 1e9, "eos_token_id": [10**6, None], "pad_token_id": "x", "cache_implementation": "odd"},
        **{"num_return_sequences": 5, "early_stopping": "odd", "watermarking_config": {"x": 1}, "penalty_alpha": [1]},
        **{"compile_config": {"x": 1}, "stop_strings": 7, "transformers_version": None, "bad_words_ids": "x"},
    }
    for name in rng.sample(list(odd), rng.randint(1, 4)):
        data[name] = odd[name] if rng.random() < 0.6 else rng.choice(ODD_VALUES)
    content = json.dumps(rng.choice((data, data, data, data, rng.choice(ODD_VALUES)))).encode()
    file.write_bytes(damage(content, rng) if rng.random() < 0.2 else content)
    if rng.random() < 0.05:
        _replace(file, rng.choice((Path.mkdir, lambda file: file.symlink_to(file))))
    return check_model(path)


def added_tokens(folder: Path, rng: random.Random) -> Result:
    """Check a model whose tokenizer has empty, repeated, blank, very long or far added tokens."""
    path = copy_of_the_base(folder)
    file = path / "tokenizer.json"
    data = json.loads(file.read_text())
    first = data["added_tokens"][0]
    contents = (
        "",
        " ",
        "\n",
        "\t\t",
        first["content"],
        "the",
        "e",
        "x" * 10_000,
        "\x00",
        "\ud800",
        "</s>",
        "\u202e",
        "漢",
    )
    ids = (0, 1, 2, 511, 5000, 10**6, 2**31 - 1, 2**32 - 1, 2**40, -1, None, "7", first["id"])
    flags = ("special", "lstrip", "rstrip", "normalized", "single_word")
    for _ in range(rng.choice((1, 1, 2, 5, 400))):
        token = first | {"content": rng.choice(contents), "id": rng.choice(ids)}
        token |= {flag: rng.random() < 0.5 for flag in flags}
        data["added_tokens"].append(token)
    if rng.random() < 0.2:
        data["added_tokens"] = [rng.choice((*data["added_tokens"], *ODD_VALUES)) for _ in range(3)]
    file.write_text(json.dumps(data))
    settings_file = path / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text())
    role = rng.choice(("eos_token", "pad_token", "bos_token", "unk_token", "additional_special_tokens"))
    if rng.random() < 0.5:
        settings[role] = rng.choice((*contents, [], None, {"content": "</s>", "__type": "AddedToken"}, 7))
    if rng.random() < 0.3:
        number = str(rng.choice(ids))
        settings["added_tokens_decoder"] = {number: rng.choice((first, *ODD_VALUES, {"content": rng.choice(contents)}))}
    settings_file.write_text(json.dumps(settings))
    return check_model(path)
