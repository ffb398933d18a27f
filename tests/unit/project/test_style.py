"""The style rules of CONTRIBUTING.md, as counts over the whole project."""

import ast
from pathlib import Path

import pytest

from tests import style

SOURCES = style.sources()
FINDINGS = [finding for path in SOURCES for finding in style.language(path)]
STRICT = (style.ROOT / "mixcpt" / "config", style.ROOT / "mixcpt" / "cli", style.ROOT / "mixcpt" / "errors.py")
MAX_LISTED_PER_1000_WORDS = 2.0


def test_settings_commands_and_errors_have_no_finding() -> None:
    strict = [finding for finding in FINDINGS if any(finding.path.is_relative_to(place) for place in STRICT)]
    assert not strict, "\n".join(map(str, strict))


def test_field_docs_are_no_fragments_and_functions_that_act_say_so() -> None:
    broken = [finding for finding in FINDINGS if finding.rule in ("fragment", "returns", "listed in message")]
    assert not broken, "\n".join(map(str, broken))


def test_listed_words_are_rare() -> None:
    listed = [finding for finding in FINDINGS if finding.rule in ("listed in docstring", "listed in field")]
    rate = 1000 * len(listed) / style.num_words(SOURCES)
    assert rate <= MAX_LISTED_PER_1000_WORDS, "\n".join(map(str, listed))


def test_code_is_not_dense() -> None:
    classes = style.own_classes()
    dense = [finding for path in SOURCES for finding in style.density(path, classes)]
    assert not dense, "\n".join(map(str, dense))


def test_functions_are_short() -> None:
    lengths = sorted(map(style.length, style.functions(SOURCES)))
    assert lengths[len(lengths) // 2] <= 8
    assert lengths[len(lengths) * 9 // 10] <= 20


def test_library_has_few_loose_modules() -> None:
    assert {path.name for path in (style.ROOT / "mixcpt").glob("*.py")} == {
        *("__init__.py", "__main__.py", "api.py", "errors.py"),
    }


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ('"""What a model is made of."""', "listed in docstring"),
        ('def f(x):\n    """Return None where it is empty."""', "listed in docstring"),
        ('class C:\n    x: int\n    """Of the model."""', "fragment"),
        ('def f(path):\n    """Return the path."""\n    path.write_text("x")', "returns"),
        ('raise DataError(f"nobody reads {x} files")', "listed in message"),
        ("y = [b for a in x for b in a]", "comprehension"),
        ("class C: ...\nC(1, 2, 3, 4, 5)", "positional"),
        ("def f():\n" + "    x = 1\n" * 81, "function"),
        ("x = 1\n" * 401, "file"),
    ],
)
def test_checker_finds_what_it_is_for(source: str, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(source)
    classes = frozenset(node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef))
    assert rule in {finding.rule for finding in (*style.language(path), *style.density(path, classes))}
