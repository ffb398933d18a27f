"""Damaged inputs by kind: each is used, set aside or refused. `make bad-inputs` tries thousands of them."""

import random
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.bad_input_kinds import KINDS
from mixcpt.errors import MixcptError

_CASES = 8


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_used_or_refused_without_crash_or_loss(kind: str, tmp_path: Path) -> None:
    for number in range(_CASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        with suppress(MixcptError):
            outcome, message = KINDS[kind](folder, random.Random(f"0/{kind}/{number}"))
            assert outcome == "used" or message
