"""The checks of a run before its first stage, in a process of their own, because they import torch.

`python -m tasks.checking` reads the settings of a run from its standard input, and prints the problems and warnings as
one JSON line.
"""

import json
import os
import subprocess
import sys
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from mixcpt.config import AdaptConfig, Settings
from mixcpt.errors import BY_NAME, MixcptError
from mixcpt.report.words import markdown
from mixcpt.servers.deployment import module_path
from mixcpt.store.fingerprint import fingerprint

CHECKED = "MIXCPT_CHECKED"
"""Environment variable with the fingerprints of settings that the caller has checked, separated by spaces."""
_LOG_CHARACTERS = 2000
_LINE_CHARACTERS = 2000
_checked: set[str] = set()
"""Fingerprints of the settings that count as checked in this process."""


def count_as_checked(*settings: Settings) -> None:
    """Skip the checks of settings that were derived from checked ones."""
    _checked.update(map(fingerprint, settings))


def check(run: AdaptConfig, settings: Settings | None = None) -> None:
    """Check a run, unless its settings count as checked, before any work starts.

    Warnings go to the log of the flow run; problems become an artifact of it.

    Args:
        run: Run to check.
        settings: Settings of a comparison, search or round that the run represents; None for an adaptation.

    Raises:
        MixcptError: If anything is wrong. The error lists every problem.
    """
    if fingerprint(settings or run) in _checked | set(os.environ.get(CHECKED, "").split()):
        return
    answer = ask(run)
    if "problem" in answer:
        error = BY_NAME[answer["error"]](answer["problem"], answer["hint"])
        create_markdown_artifact(as_markdown(error), key="problems", description=f"{run.name} cannot start")
        raise error
    for warning in answer["warnings"]:
        get_run_logger().warning(warning)
    count_as_checked(settings or run)


def ask(run: AdaptConfig) -> dict[str, Any]:
    """Run the checks in another process and return its answer.

    Raises:
        MixcptError: If the process ends without an answer.
    """
    command = [sys.executable, "-P", "-m", "tasks.checking"]
    environment = {**os.environ, "PYTHONPATH": module_path()}
    request = run.model_dump_json()
    done = subprocess.run(command, input=request, capture_output=True, text=True, env=environment, check=False)
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        problem = f"the process of the checks ended with code {done.returncode}"
        raise MixcptError(f"{problem}\n{done.stderr[-_LOG_CHARACTERS:]}") from None
    return answer


def as_markdown(error: MixcptError) -> str:
    """Return an error as text of an artifact, one paragraph per line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "\n\n".join(markdown(line, max_characters=_LINE_CHARACTERS) for line in lines)


def main() -> None:
    """Check the run whose settings are in the standard input, and print the result as one JSON line."""
    from mixcpt.checks.preflight import preflight

    try:
        checked = preflight(AdaptConfig.model_validate_json(sys.stdin.read()))
        answer: dict[str, Any] = {"warnings": [str(warning) for warning in checked.warnings]}
    except MixcptError as error:
        answer = {"error": type(error).__name__, "problem": error.problem, "hint": error.hint}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
