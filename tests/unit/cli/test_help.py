"""The help of every command: an explanation, an example, and a text for every option."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mixcpt.cli import app

WITHOUT_EXAMPLE = ("corpus list",)


def commands(group: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_the_command_with_an_example(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, [*name.split(), "--help"], prog_name="mixcpt")
    assert shown.exit_code == 0, shown.output
    assert len(shown.output.split()) > 20
    example = f"\n  mixcpt {name} "
    assert example in shown.output or name in WITHOUT_EXAMPLE


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option(name: str) -> None:
    for parameter in COMMANDS[name].params:  # type: ignore[attr-defined]
        assert parameter.hidden or parameter.help, f"{name}: {parameter.name} has no help"


def test_help_of_the_program_lists_every_command() -> None:
    shown = CliRunner().invoke(app, ["--help"], prog_name="mixcpt")
    names = {name.split()[0] for name in COMMANDS}
    assert names <= set(shown.output.split())


@pytest.mark.parametrize("option", ["--trial", "--no-trial"])
def test_plan_renamed_option_names_the_new_one(option: str, tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["plan", str(tmp_path / "any.yaml"), option])
    assert refused.exit_code == 2
    assert "--dry-run or --no-dry-run" in refused.stderr
