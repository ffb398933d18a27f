"""YAML that settings cannot be read from is refused with its place, in files and in `--set`."""

from pathlib import Path

import pytest

from mixcpt.config import load_any, load_config
from mixcpt.config.yaml_text import BadYaml, parse
from mixcpt.errors import ConfigError

_BOMB = "\n".join(
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)),
    ]
)
_REFUSED = {
    "name: one\nname: two\n": "line 2",
    "base:\n  model: a\n  model: b\n": "the first is in line 2",
    _BOMB: "aliases make",
    "a: &a [*a]\n": "contains itself",
    "[" * 5000: "nested too deeply",
    "a: 2026-13-45\n": "cannot be read",
    f"a: {'9' * 5000}\n": "cannot be read",
    "a: \x00\n": "special characters",
    f"a: {'x' * 1_000_001}": "at most 1,000,000",
}


@pytest.mark.parametrize("text", _REFUSED, ids=list(_REFUSED.values()))
def test_parse_odd_yaml_is_refused_with_reason(text: str) -> None:
    with pytest.raises(BadYaml, match=_REFUSED[text]):
        parse(text)


@pytest.mark.parametrize("text", _REFUSED, ids=list(_REFUSED.values()))
def test_load_odd_yaml_names_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_any(path)


@pytest.mark.parametrize("text", ["2026-13-45", "[" * 3000, "{a: 1, a: 2}", "&a [*a]", "9" * 5000, "\x00"])
def test_override_of_odd_yaml_names_the_option(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_config(None, [f"name={text}"])


def test_parse_anchors_and_merged_sections_are_read() -> None:
    text = "one: &one {a: 1, b: 2}\ntwo: &two {<<: *one, b: 3}\nthree: {<<: *two, a: 4}\n"
    assert parse(text)["three"] == {"a": 4, "b": 3}
