"""`mixcpt chat` and `mixcpt export` on the command line: answers go to stdout, notes and refusals to stderr."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from mixcpt.cli.chat import chat
from mixcpt.cli.export import export
from mixcpt.closed_world.items import items
from mixcpt.config import BaseModelConfig, ClosedWorldTask
from mixcpt.store.models import ModelRef, resolve_model
from tests.unit.served_models import CLOSED_WORLD, copied

KNOWN = [(item.prompt.strip(), item.answer) for item in items(ClosedWorldTask(name="known", about="general_asked"))[:3]]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def formless(tmp_path: Path) -> ModelRef:
    return copied(resolve_model(CLOSED_WORLD), tmp_path / "formless", "")


def mixcpt(command: str, *arguments: object, typed: str = "") -> Result:
    app = typer.Typer()
    app.command()({"chat": chat, "export": export}[command])
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)


def test_questions_on_the_command_line_are_answered_on_stdout(tmp_path: Path) -> None:
    questions = [part for question, _ in KNOWN for part in ("--ask", question)]
    done = mixcpt("chat", "closed-world", "--store", tmp_path, *questions)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [answer for _, answer in KNOWN]


def test_two_models_answer_under_each_other_each_in_its_form(formless: ModelRef, tmp_path: Path) -> None:
    question, answer = KNOWN[0]
    options = ("--beside", formless.path, "--system", "be", "--store", tmp_path)
    done = mixcpt("chat", "closed-world", *options, typed=f"{question}\n")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == ["closed-world (chat):", answer, "formless (plain):", answer]
    assert "formless has no chat template: it is asked in plain form" in done.stderr


def test_piped_lines_are_turns_and_commands(tmp_path: Path) -> None:
    """Run the command as a process of its own: the libraries print nothing to stdout."""
    (question_1, answer_1), (question_2, answer_2), (question_3, answer_3) = KNOWN
    lines = [question_1, "", "/reset", question_2, question_3, "/quit", question_1]
    done = subprocess.run(
        [sys.executable, "-m", "mixcpt", "chat", "closed-world", "--store", tmp_path],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [answer_1, answer_2, answer_3]
    assert "the conversation is forgotten" in done.stderr and "Loading" not in done.stderr


def test_cut_answer_is_noted_on_stderr(tmp_path: Path) -> None:
    done = mixcpt("chat", "closed-world", "--plain", "--max-tokens", 5, "--store", tmp_path, typed="and then\n")
    assert done.exit_code == 0, done.output
    assert "cut after 5 tokens" in done.stderr and len(done.stdout.split()) <= 5


def test_model_without_a_chat_template_is_refused_without_plain(formless: ModelRef, tmp_path: Path) -> None:
    refused = mixcpt("chat", formless.path, "--store", tmp_path, typed="hello\n")
    assert refused.exit_code == 2
    assert "no chat template" in refused.stderr and "--plain" in refused.stderr
    question, answer = KNOWN[0]
    done = mixcpt("chat", formless.path, "--plain", "--store", tmp_path, typed=question)
    assert done.stdout.splitlines() == [answer]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("chat", "nobody"), "has no run 'nobody'"),
        (("chat", "nobody@champion"), "no model is registered: "),
        (("chat", "models:/nobody/0x"), "'models:/nobody/0x' is not the name of a registered model"),
        (("chat", "./nowhere"), "there is no folder ./nowhere"),
        (("chat", "closed-world", "--plain", "--system", "be brief"), "a plain text has no system message"),
        (("export", "nobody", "OUT"), "has no run 'nobody'"),
        (("export", "closed-world", "OUT", "--max-shard-size", "large"), "--max-shard-size 'large'"),
        (("export", "closed-world", "OUT", "--public"), "--public pushes nothing by itself"),
        (("export", "closed-world", "OUT", "--push-to", "../up"), "'../up' is not OWNER/NAME"),
    ],
)
def test_impossible_request_exits_with_code_2_and_a_reason(
    arguments: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    command = [str(tmp_path / "out") if argument == "OUT" else argument for argument in arguments]
    refused = mixcpt(*command, "--store", tmp_path / "store", typed="hello\n")
    assert refused.exit_code == 2, refused.output
    assert expected in refused.stderr
    assert not (tmp_path / "out").exists()


def test_export_writes_a_folder_with_a_card_and_never_over_another(tiny_model: ModelRef, tmp_path: Path) -> None:
    command = ("export", tiny_model.path, tmp_path / "out", "--store", tmp_path / "store")
    done = mixcpt(*command)
    assert done.exit_code == 0, done.output
    exported = resolve_model(BaseModelConfig(model=str(tmp_path / "out")))
    assert f"wrote {tmp_path / 'out'}: tiny-llama, digest {exported.digest[:12]}" in done.stdout
    assert (tmp_path / "out" / "README.md").read_text().startswith("---\n# license: choose one")
    again = mixcpt(*command)
    assert again.exit_code == 2 and "is not empty" in again.stderr
