"""Counts what makes code hard to read: `python tests/style.py [FOLDER ...]` lists every finding with its line.

Language rules apply to docstrings, field docs, and the texts that a command or an error prints. Size and density rules
apply to functions, files, comprehensions and constructor calls.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("mixcpt", "tasks", "flows")
LISTED = re.compile(
    r"\b(?:what(?! if)|whoever|nobody|lest|reckon\w*|beside|alone|of each|those (?:of|that|which|who)|"
    r"who (?:is|are|was|has|had|does)|"
    r"where (?:it|there|one|none|no|nothing|this|that|they|the|a|an|its|each|some|any|all)|"
    r"where \w+ (?:is|are|has|have|was|were|does|do)|so-and-so)\b",
    re.IGNORECASE,
)
FRAGMENT = re.compile(
    r"(?:Of|At|In|To|From|By|For|With|Without|As|After|Before|On|Where|If|Whose|Who|What|How|When|Only|Not|None|Than"
    r"|Until)\b"
)
ACTS = {"write_text", "write_bytes", "mkdir", "unlink", "rename", "rmtree", "produce", "save_pretrained", "print"}
MESSAGE_CALLS = re.compile(r"(?:\w*Error|TrackingAway|StageInterrupted|Option|Argument)$")


@dataclass(frozen=True)
class Finding:
    """One place that breaks a rule."""

    rule: str
    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.rule}: {self.text}"


@dataclass(frozen=True)
class Prose:
    """A text that a person reads: `docstring`, `field` or `message`."""

    kind: str
    line: int
    text: str


def sources(*folders: str) -> list[Path]:
    """Return the Python files below some folders of the project."""
    return sorted(path for folder in folders or PACKAGES for path in (ROOT / folder).rglob("*.py"))


def prose(tree: ast.Module) -> Iterator[Prose]:
    """Yield every docstring, field doc and message of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node):
                yield Prose("docstring", getattr(node, "lineno", 1), text)
            yield from _attribute_docs(node)
        elif isinstance(node, ast.Call) and MESSAGE_CALLS.match(_name(node.func)):
            yield from _messages(node)


def _attribute_docs(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Prose]:
    for previous, statement in zip(node.body, node.body[1:], strict=False):
        match previous, statement:
            case ast.AnnAssign() | ast.Assign(), ast.Expr(value=ast.Constant(value=str(text))):
                yield Prose("field", statement.lineno, text)


def _messages(call: ast.Call) -> Iterator[Prose]:
    for node in ast.walk(call):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield Prose("message", node.lineno, node.value)


def language(path: Path) -> Iterator[Finding]:
    """Yield listed words, fragments among field docs, and functions that act but are said to return."""
    tree = ast.parse(path.read_text())
    for text in prose(tree):
        for match in LISTED.finditer(text.text):
            yield Finding(f"listed in {text.kind}", path, text.line, match.group(0))
        if text.kind == "field" and (FRAGMENT.match(text.text) or len(text.text.split()) < 2):
            yield Finding("fragment", path, text.line, text.text.split("\n")[0])
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if re.match(r"Returns\b", text) or (re.match(r"Return\b", text) and _acts(node)):
                yield Finding("returns", path, node.lineno, text.split("\n")[0])


def _acts(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(node, ast.Call) and _name(node.func) in ACTS for node in ast.walk(function))


def num_words(paths: list[Path]) -> int:
    """Return how many words the docstrings and field docs of some files have."""
    texts = (text for path in paths for text in prose(ast.parse(path.read_text())) if text.kind != "message")
    return sum(len(text.text.split()) for text in texts)


def density(path: Path, own_classes: frozenset[str]) -> Iterator[Finding]:
    """Yield nested comprehensions, constructor calls with five positional arguments, and what is too long."""
    source = path.read_text()
    if (lines := source.count("\n")) > 400:
        yield Finding("file", path, 1, f"{lines} lines")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) and len(node.generators) > 1:
            yield Finding("comprehension", path, node.lineno, ast.unparse(node)[:100])
        elif isinstance(node, ast.Call) and _name(node.func) in own_classes and len(node.args) >= 5:
            yield Finding("positional", path, node.lineno, ast.unparse(node)[:100])
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > 80:
            yield Finding("function", path, node.lineno, f"{node.name}: {length(node)} lines")


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of a function, docstring included."""
    return (function.end_lineno or 0) - function.lineno + 1


def functions(paths: list[Path]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function of some files."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def own_classes() -> frozenset[str]:
    """Return the names of all classes of the project."""
    trees = (ast.parse(path.read_text()) for path in sources())
    return frozenset(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


if __name__ == "__main__":
    chosen = sources(*sys.argv[1:])
    classes = own_classes()
    found = [finding for path in chosen for finding in (*language(path), *density(path, classes))]
    print(*found, sep="\n")
    print(f"{len(found)} findings in {num_words(chosen)} words of {len(chosen)} files")
