"""A missing library of `tracking.also` is refused with the command that installs it."""

import pytest

from mixcpt.checks import reporters
from mixcpt.checks.findings import Subject
from mixcpt.config import AdaptConfig


def problems(*names: str) -> list[str]:
    config = AdaptConfig.model_validate({"tracking": {"also": list(names)}})
    return [str(finding) for finding in reporters.check(Subject(config, None)) if not finding.is_warning]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_missing_library_is_refused_with_its_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporters, "find_spec", lambda name: None)
    (problem,) = problems(name)
    assert problem.startswith(f"tracking.also has {name}")
    assert f"pip install {name}" in problem


def test_installed_library_and_no_library_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems() == []
    monkeypatch.setattr(reporters, "find_spec", lambda name: object())
    assert problems("tensorboard", "wandb") == []
