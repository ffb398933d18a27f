"""The checks of a flow: in a process of their own, and once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixcpt.config import AdaptConfig, BaseModelConfig, CompareConfig
from mixcpt.errors import ConfigError, MixcptError
from mixcpt.servers.deployment import module_path
from mixcpt.store.fingerprint import fingerprint
from tasks import checking
from tasks.checking import CHECKED, as_markdown, ask, check, count_as_checked

BAD = AdaptConfig(base=BaseModelConfig(model="/no/such model"))


def test_problems_of_a_run_come_back_from_the_process_of_the_checks() -> None:
    answer = ask(BAD)
    assert answer["error"] == ConfigError.__name__
    assert "base.model: there is no folder /no/such model" in answer["problem"]


def test_checked_settings_are_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    other = AdaptConfig(seed=1)
    monkeypatch.setenv(CHECKED, f"{fingerprint(other)} {fingerprint(BAD)}")
    check(BAD)
    check(other)


def test_settings_derived_from_checked_ones_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_checked", set[str]())
    comparison = CompareConfig.model_validate({"contenders": [{"name": "one"}], "settings": {}})
    count_as_checked(BAD, comparison)
    check(BAD)
    check(BAD.model_copy(update={"seed": 3}), comparison)


def test_process_that_dies_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no memory >&2\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(MixcptError, match=r"ended with code 9\n.*no memory"):
        ask(BAD)


def test_problems_are_escaped_and_one_paragraph_each() -> None:
    text = as_markdown(ConfigError("2 problems:\n  <b>one</b>\n  [two](http://example)", "`repair` them"))
    assert text.split("\n\n") == [
        "2 problems:",
        "&lt;b&gt;one&lt;/b&gt;",
        r"\[two\](http://example)",
        r"-&gt; \`repair\` them",
    ]


def test_flows_import_no_torch() -> None:
    program = "import sys, flows.quick, flows.compare, tasks.checking; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": module_path()}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split()[-1] == "False"
