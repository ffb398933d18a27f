"""The documentation: every link, path, module, command and snippet in it refers to something that exists."""

import ast
import io
import re
import shlex
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import chain, groupby, pairwise, takewhile
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

import mixcpt
from mixcpt.cli import app
from mixcpt.config import AdaptConfig, Claim

ROOT = Path(__file__).parents[3]
CARD = "mixcpt/closed_world/base/README.md"
FOLDERS = ("mixcpt", "tasks", "flows", "deployments", "docker", "docs", "tests", "benchmarks", "examples")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / CARD])
PATH = re.compile(
    rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})/[\w./*-]*?\.(?:md|py|ya?ml|json|sh|jinja|j2|svg|png|css|ini))(?:#([\w-]+))?"
    r"(?![\w/])"
)
MODULE = re.compile(rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})(?:\.\w+)+)(?![\w/])")
NOT_MODULES = re.compile(r"mixcpt\.(?:promoted_from|corpus\.registered|stages|yaml|example)$|\.(?:py|ya?ml|md|json)$")
"""A tag, an event, an entry point group, and names of files."""
WIDTH_ON_A_PHONE = 72
OLD_WORDS = re.compile(
    r"\b(?:whoever|nobody|lest|reckon\w*|contests?|side by side|head to head|stations?)\b", re.IGNORECASE
)
"""Words that were replaced by one standard name each, such as comparison, estimate and stage group."""


def fences(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in some language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def without_fences(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_fences(page.read_text()), flags=re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def problem_of(path: str, anchor: str, origin: Path = ROOT) -> str:
    """Return why a reference resolves to nothing, or an empty text."""
    targets = list(origin.glob(path)) if "*" in path else [origin / path]
    if not targets or not targets[0].exists():
        return f"{path} does not exist"
    if anchor and anchor not in anchors(targets[0].resolve()):
        return f"{path} has no section #{anchor}"
    return ""


def texts_of(path: Path) -> Iterator[str]:
    """Yield the texts of a file that people read: a whole page or settings file; docstrings, comments, messages."""
    source = path.read_text()
    if path.suffix != ".py":
        yield source
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    in_tests = path.is_relative_to(ROOT / "tests")
    for node in ast.walk(ast.parse(source)):
        expressions = ast.walk(node) if isinstance(node, ast.Expr) or not in_tests else ()
        for part in expressions:
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and " " in part.value:
                yield part.value


def readable_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    suffixes = {".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".j2"}
    paths = (ROOT / line for line in listing.stdout.splitlines())
    named = ("Makefile", "Dockerfile", ".env.example")
    return [path for path in paths if path.exists() and (path.suffix in suffixes or path.name in named)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_sections_that_exist(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)]+))?\)", without_fences(page.read_text()))
    problems = [problem_of(path or page.name, anchor, page.parent) for path, anchor in links]
    assert [problem for problem in problems if problem] == []


def test_paths_named_in_code_and_pages_exist() -> None:
    problems = []
    for path in readable_files():
        references = chain.from_iterable(PATH.findall(text) for text in texts_of(path))
        found = {problem_of(name, anchor) for name, anchor in references} - {""}
        problems += [f"{path.relative_to(ROOT)}: {problem}" for problem in sorted(found)]
    assert problems == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_named_on_a_page_exist(page: Path) -> None:
    names = {name for name in MODULE.findall(page.read_text()) if not NOT_MODULES.search(name)}
    assert sorted(name for name in names if not is_defined(name)) == []


def is_defined(name: str) -> bool:
    """Return whether a dotted name is a module, or a name in the source of one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:count])
        source = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if base.is_dir() and count == len(parts):
            return True
        if source.exists():
            rest = parts[count:]
            return not rest or re.search(rf"\b{rest[0]}\b", source.read_text()) is not None
    return False


def commands_of(page: Path) -> Iterator[list[str]]:
    """Yield the words of every command in the shell blocks of a page, without redirections."""
    for block in fences(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for is_separator, command in groupby(words, key=lambda word: word in ("&&", ";", "|")):
                if not is_separator:
                    yield list(takewhile(lambda word: word not in ("<", ">"), command))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for program, *words in commands_of(page):
        if program == "mixcpt":
            require_command(words)
        elif program == "make":
            assert set(words) <= targets, words
        elif program in ("python", "python3") and words[0] == "-m":
            assert words[1] == "venv" or is_defined(words[1]), words
        elif program in ("python", "pytest") and words[0].startswith(FOLDERS):
            assert (ROOT / words[0]).exists(), words


def require_command(words: list[str]) -> None:
    """Fail unless a command of `mixcpt` has this name and takes these options, and its presets exist."""
    command: Any = typer.main.get_command(app)
    path = list(words)
    while hasattr(command, "commands") and path and not path[0].startswith("-"):
        name = path.pop(0)
        assert name in command.commands, f"there is no command mixcpt {' '.join(words)}"
        command = command.commands[name]
    known = set(chain.from_iterable([*parameter.opts, *parameter.secondary_opts] for parameter in command.params))
    options = {word.partition("=")[0] for word in path if re.match(r"--?[a-z]", word)}
    assert options <= known | {"--help"}, f"mixcpt {' '.join(words)}: {options - known}"
    for word in path:
        if word.startswith("deployments/"):
            assert (ROOT / word).exists(), word


def test_settings_named_in_commands_exist() -> None:
    for page in PAGES:
        for _, *words in commands_of(page):
            for flag, value in pairwise(words):
                if flag == "--set":
                    assert has_setting(AdaptConfig, value.partition("=")[0].split(".")), f"{page.name}: {value}"


def has_setting(model: Any, keys: list[str]) -> bool:
    """Return whether a path of keys leads through settings classes; a union accepts the keys of all its classes."""
    if not keys:
        return True
    models = [model] if isinstance(model, type) else list(getattr(model, "__args__", ()))
    for part in models:
        fields = getattr(part, "model_fields", {})
        if keys[0] in fields and (len(keys) == 1 or has_setting(fields[keys[0]].annotation, keys[1:])):
            return True
    return False


def test_yaml_of_the_pages_is_accepted_as_settings() -> None:
    checked = 0
    for page in PAGES:
        for block in fences(page, "yaml"):
            data = yaml.safe_load(block)
            if "claims" in data:
                for claim in data["claims"]:
                    Claim.model_validate(claim)
            elif set(data) <= set(AdaptConfig.model_fields):
                AdaptConfig.model_validate(data)
            else:
                continue
            checked += 1
    assert checked >= 5


def test_readme_python_uses_names_that_exist() -> None:
    (snippet,) = fences(ROOT / "README.md", "python")
    names = {
        node.attr
        for node in ast.walk(ast.parse(snippet))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mixcpt"
    }
    assert {"load_config", "adapt"} <= names <= set(mixcpt.__all__)
    assert find_spec("mixcpt.api") is not None


def test_readme_fits_a_phone_and_a_terminal() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 90
    blocks = re.findall(r"^```\w+\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    assert max(map(len, "".join(blocks).splitlines())) <= WIDTH_ON_A_PHONE
    assert all(line.count("|") <= 4 for line in readme.splitlines() if line.startswith("|"))


def test_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    reachable = readme + (ROOT / "ARCHITECTURE.md").read_text()
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in reachable]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_one_name_for_each_thing(page: Path) -> None:
    assert sorted(set(OLD_WORDS.findall(without_fences(page.read_text())))) == []


def test_changelog_starts_with_the_present_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    titles = re.findall(r"^## (.+)$", changelog, flags=re.MULTILINE)
    assert titles[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(mixcpt.__version__)} - \d{{4}}-\d\d-\d\d", titles[1])
