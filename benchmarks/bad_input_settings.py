"""Damaged files of settings and unusual names for bad_inputs.py."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.bad_input_damage import ODD_VALUES, Loss, Result, damage
from mixcpt.checks import names, rates
from mixcpt.checks.findings import Subject
from mixcpt.config import AdaptConfig, AdviseConfig, CompareConfig, ReadaptConfig, load_any, load_config
from mixcpt.config.base import Settings
from mixcpt.config.writing import to_yaml


def settings(folder: Path, rng: random.Random) -> Result:
    """Load settings with one or two values replaced, or a damaged file of settings."""
    path = folder / "run.yaml"
    path.write_text(to_yaml(AdaptConfig(), only_set=False), encoding="utf-8")
    if rng.random() < 0.3:
        path.write_bytes(damage(path.read_bytes(), rng))
        load_config(path)
        return "used", ""
    changes = []
    for _ in range(rng.randint(1, 2)):
        keys = _path_of_a_setting(AdaptConfig().model_dump(mode="json"), rng)
        changes.append(f"{keys}={json.dumps(rng.choice(ODD_VALUES))}")
    load_config(path, changes)
    return "used", ""


def _path_of_a_setting(data: Any, rng: random.Random) -> str:
    keys: list[str] = []
    while isinstance(data, Mapping) and data and rng.random() < 0.9:
        key = rng.choice(list(data))
        keys.append(key if rng.random() < 0.97 else key[::-1])
        data = data[key]
    return ".".join(keys) or "name"


def run_names(folder: Path, rng: random.Random) -> Result:
    """Load a run with an unusual name and check it."""
    alphabet = "abzAZ09-_. /\\\x00\n\u202eéß漢🙂'\"<>&{}%"
    reserved = ("base", "seconds", "con", "..", "-", "a" * 300, "RESULT", "champion")
    name = rng.choice((*reserved, "".join(rng.choices(alphabet, k=rng.randint(0, 12)))))
    config = load_config(None, [f"name={json.dumps(name)}"])
    problems = [finding for finding in names.check(Subject(config, None)) if not finding.is_warning]
    return ("refused", str(problems[0])) if problems else ("used", "")


def _bomb(rng: random.Random) -> str:
    """Return YAML whose anchors multiply to 10^9 values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    key = rng.choice(("curation", "base", "name", "evaluate", "mixture"))
    return "\n".join([*lines, f"{key}: *a8", "base: {model: *a8}"])


_WHOLE = to_yaml(AdaptConfig(), only_set=False)
_FILES: tuple[Callable[[random.Random], str], ...] = (
    _bomb,
    lambda rng: "a: &a [*a]\nname: *a",
    lambda rng: "curation: &c {sources: *c}",
    lambda rng: "name: one\nname: two\n",
    lambda rng: _WHOLE + "\nseed: 3\nmixture: {total_tokens: 7}\n",
    lambda rng: "name: one\nmixture:\n\ttotal_tokens: 5\n",
    lambda rng: _WHOLE.replace("  ", "\t", rng.randint(1, 9)),
    lambda rng: rng.choice(
        ("- a\n- b", "text", "7", "true", "2026-11-28", "null", "", "---\n---\n", "[]", "{}", "!!set {a}")
    ),
    lambda rng: "name: " + "x" * rng.choice((10_000, 10_000_000)),
    lambda rng: "note:\n" + "- value\n" * rng.choice((1_000, 1_200_000)),
    lambda rng: "# comment\n" * 1_000_000 + "name: one\n",
    lambda rng: (
        f"{_key(rng)}: {rng.choice(('.nan', '.inf', '-.inf', '1e999', 'NaN', '-0.0', '0x10', '1_000', '12:30:45'))}"
    ),
    lambda rng: (
        f"{_key(rng)}: {rng.choice(('2026-11-28', '2026-13-45', '2026-11-28 25:61:00', '0000-00-00', '1-1-1'))}"
    ),
    lambda rng: f"{_key(rng)}: {'9' * rng.choice((30, 5000))}",
    lambda rng: (
        f"{_key(rng)}: {rng.choice(('!!python/object:os.system x', '!!binary x', '!!int x', '!!float y', '!x y', '='))}"
    ),
    lambda rng: (
        f"{_key(rng)}: {rng.choice(('&a', '*b', '<<: 3', '{<<: [1]}', '{<<: {a: 1}}', '@x', '`x`', '%x', '{', '? '))}"
    ),
    lambda rng: rng.choice(
        ("1: x", "null: x", "true: x", "[a]: x", "{a: b}: x", "2026-11-28: x", "1.5: x", "? [a, b]\n: x")
    ),
    lambda rng: "[" * 5_000 + "]" * 5_000,
    lambda rng: "".join(f"{' ' * depth}a:\n" for depth in range(3_000)),
    lambda rng: "name: one\n---\nname: two\n",
    lambda rng: "%YAML 9.9\n---\nname: one\n",
    lambda rng: "name: \x00\x01\n",
    lambda rng: 'name: "\\ud800"\nbase: {model: "\\udfff"}\n',
    lambda rng: f"{_key(rng)}: {{unknown_key: 1, Model: x, nested: {{deep: [1, {{a: b}}]}}}}",
    lambda rng: f"{_key(rng)}.{_key(rng)}: 5",
    lambda rng: f"{_key(rng)}: [{{{_key(rng)}: {{{_key(rng)}: 1}}}}]",
    lambda rng: _WHOLE[: rng.randrange(len(_WHOLE))],
    lambda rng: json.dumps(AdaptConfig().model_dump(mode="json"))[: rng.randrange(3000)],
)
"""Files of settings that YAML or the settings classes do not expect."""


def _key(rng: random.Random) -> str:
    return rng.choice([*AdaptConfig.model_fields, "sources", "contenders", "settings", "adapt", "gates", "source"])


def settings_files(folder: Path, rng: random.Random) -> Result:
    """Load a file that is odd YAML, of another encoding, or no file."""
    path = folder / rng.choice(("run.yaml", "run.yml", "run.json", "run", "line\nbreak.yaml"))
    text = rng.choice(_FILES)(rng)
    codec = rng.choice(("utf-8", "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    place = rng.randrange(30)
    if place == 0:
        path.mkdir()
    elif place == 1:
        path.symlink_to(path)
    elif place == 2:
        path.symlink_to("absent")
    elif place == 3:
        path = Path("x" * 300)
    else:
        path.write_bytes(text.encode(codec, "replace"))
    return _checked(load_any(path, _odd_overrides(rng)), text)


def _odd_overrides(rng: random.Random) -> list[str]:
    values = (
        "2026-13-45",
        "&a [*a]",
        "[" * 3000,
        "\x00",
        "{a: 1, a: 2}",
        "!!python/name:os",
        ".nan",
        "9" * 5000,
        "\ud800",
    )
    keys = ("name", "a..b", "", ".", "curation.sources.0", "curation.sources.9", "name.x", "évaluate", "seed", " seed ")
    if rng.random() < 0.8:
        return []
    return [rng.choice((f"{rng.choice(keys)}={rng.choice(values)}", rng.choice(keys), rng.choice(values)))]


def _checked(config: Settings, text: str) -> Result:
    """Check accepted settings as far as that needs no model."""
    if _repeats_a_key(text):
        raise Loss("a key is given twice, and one of its values is lost")
    run = {
        CompareConfig: lambda: config.first,  # type: ignore[attr-defined]
        AdviseConfig: lambda: config.given,  # type: ignore[attr-defined]
        ReadaptConfig: lambda: config.adapt,  # type: ignore[attr-defined]
    }.get(type(config), lambda: config)()
    if not isinstance(run, AdaptConfig):
        return "used", ""
    to_yaml(run)
    problems, warned = [], []
    for check in (names.check, rates.check):
        for finding in check(Subject(run, None)):
            (warned if finding.is_warning else problems).append(str(finding))
    if problems:
        return "refused", problems[0]
    return ("warned", warned[0]) if warned else ("used", "")


def _repeats_a_key(text: str) -> bool:
    keys = [line.partition(":")[0] for line in text[:200_000].splitlines() if line[:1].isalpha() and ":" in line]
    return len(set(keys)) < len(keys) and "---" not in text


_CORPUS = {
    "source": {"kind": "files", "name": "news", "pool": "domain", "paths": ["news/*.md"]},
    "tasks": [{"kind": "multiple_choice", "name": "news", "group": "domain", "path": "news.jsonl"}],
    "note": "",
}
_OTHERS: tuple[dict[str, Any], ...] = (
    CompareConfig.model_validate(
        {"contenders": [{"name": "one"}, {"name": "two", "settings": {"pretrain": {"method": {"kind": "cpt_replay"}}}}]}
    ).model_dump(mode="json"),
    AdviseConfig().model_dump(mode="json"),
    ReadaptConfig().model_dump(mode="json"),
    _CORPUS,
)


def other_settings(folder: Path, rng: random.Random) -> Result:
    """Load settings of a comparison, a search, rounds or a corpus with odd values, names and places."""
    data = json.loads(json.dumps(rng.choice(_OTHERS)))
    for _ in range(rng.randint(1, 2)):
        _change(data, rng)
    path = folder / "other.yaml"
    path.write_bytes(yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "replace"))
    return _checked(load_any(path, _odd_overrides(rng)), "")


def _change(data: dict[str, Any], rng: random.Random) -> None:
    """Replace, rename, remove, add or move one value of nested settings."""
    parent: Any = data
    while isinstance(parent, dict | list) and parent:
        key: Any = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
        if not (isinstance(parent[key], dict | list) and parent[key]) or rng.random() < 0.3:
            break
        parent = parent[key]
    change = rng.randrange(6)
    if change == 0 or isinstance(parent, list):
        parent[key] = rng.choice(ODD_VALUES)
    elif change == 1:
        parent[str(key)[::-1]] = parent.pop(key)
    elif change == 2:
        del parent[key]
    elif change == 3:
        data[key] = parent[key]
    elif change == 4:
        parent[key] = {key: parent[key]}
    else:
        data["settings"] = {str(key): rng.choice(ODD_VALUES), "base": {"model": rng.choice(ODD_VALUES)}}
