"""Forms of generated texts: their prompts, lengths and parsing, read from YAML files that users can edit and add."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from mixcpt.config.base import PositiveFloat, PositiveInt, Settings
from mixcpt.errors import ConfigError
from mixcpt.store.fingerprint import fingerprint

FOLDER = Path(__file__).parent / "forms"
JUDGES = Path(__file__).parent / "judges"
"""Forms whose answer is yes or no."""
PASSAGE, TITLE, STATEMENT = "{passage}", "{title}", "{statement}"
_PLACES = re.compile("|".join(map(re.escape, (PASSAGE, TITLE, STATEMENT))))


class Form(Settings):
    """One form of text, as in its YAML file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    """Name of the form in settings and reports."""
    purpose: str = Field(min_length=1)
    """Effect of reading texts of this form, in one sentence."""
    prompt: str
    """Request to the model; `{passage}` stands for the passage, `{title}` for its document's title."""
    system: str = ""
    """System message, for generators with a chat template."""
    as_chat: bool = True
    """Whether the prompt is a turn of a chat, if the generator has a chat template; otherwise it is continued as plain
    text."""
    content: Literal["text", "questions", "alternating"] = "text"
    """Parsing of the answer: `text` keeps it as it is; `questions` keeps its pairs of question and answer, each as
    its own text; `alternating` does so for lines that are questions and answers in turn, without marks."""
    per_passage: PositiveInt = 1
    """Number of texts of this form per passage, relative to the other forms of a run."""
    length: PositiveFloat = 1.0
    """Typical length of a text, relative to its passage."""
    max_length: PositiveFloat = 2.0
    """Length at which generation stops, relative to the passage."""

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: str) -> str:
        if prompt.count(PASSAGE) != 1:
            raise ValueError(f"the prompt must contain {PASSAGE} exactly once")
        return prompt

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that can change a text; the purpose cannot."""
        return fingerprint(self.model_dump(mode="json", exclude={"purpose", "per_passage", "length"}))

    def request(self, passage: str, title: str, statement: str = "") -> str:
        """Return the prompt about a passage; braces in the inserted texts stay as they are."""
        values = {PASSAGE: passage, TITLE: title, STATEMENT: statement}
        return _PLACES.sub(lambda place: values[place.group()], self.prompt)


def shipped_forms() -> list[Form]:
    """Return the forms that come with mixcpt, by name."""
    return [_read(path) for path in sorted(FOLDER.rglob("*.yaml"))]


def load_forms(names: tuple[str, ...]) -> list[Form]:
    """Return the forms of these names or paths, in order.

    Raises:
        ConfigError: If a form does not exist or its file is invalid, with all problems.
    """
    forms, problems = [], []
    for name in names:
        try:
            forms.append(_read(form_file(name)))
        except ConfigError as error:
            problems.append(error.problem)
    names_used = [form.name for form in forms]
    problems += sorted(
        {f"rewrite.forms has two forms of the name {name}" for name in names_used if names_used.count(name) > 1}
    )
    if problems:
        raise ConfigError("; and ".join(problems), "`mixcpt forms` lists the shipped forms; copy one to write your own")
    return forms


def load_judge(name: str) -> Form:
    """Return the form of a judge, by its name or path.

    Raises:
        ConfigError: If it does not exist, is invalid, or has no place for the statement.
    """
    key = "rewrite.faithfulness.judge_form"
    judge = _read(form_file(name, JUDGES, key), key)
    if STATEMENT not in judge.prompt:
        raise ConfigError(f"rewrite.faithfulness.judge_form: the prompt of {name} has no {STATEMENT}")
    return judge


def form_file(name: str, folder: Path = FOLDER, key: str = "rewrite.forms") -> Path:
    """Return the file of a form, given by the name of a shipped one or by a path.

    Raises:
        ConfigError: If there is neither.
    """
    shipped = folder / f"{name}.yaml"
    if shipped.is_file() and shipped.resolve().is_relative_to(folder.resolve()):
        return shipped
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        known = ", ".join(sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml")))
        raise ConfigError(f"{key}: {name!r} is neither a shipped form ({known}) nor a YAML file")
    return path


def _read(path: Path, key: str = "rewrite.forms") -> Form:
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Form.model_validate(data)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{key}: {path}: {_explain(error)}") from None


def _explain(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors())
    return " ".join(str(error).split())
