"""Names that a run cannot have."""

import pytest

from mixcpt.checks import names
from mixcpt.checks.names import is_reserved
from mixcpt.report import summary
from mixcpt.store.models import ModelRef
from tests.unit.checks.checked_models import problems, subject


@pytest.mark.parametrize("name", ["base", "seconds", "closed-world"])
def test_run_with_a_reserved_name_is_refused_with_its_key(name: str, tiny_model: ModelRef) -> None:
    [problem] = problems(names.check, subject(tiny_model.directory, name=name))
    assert problem.startswith(f"name: {name} is reserved")
    assert f"-> choose another name for the run, such as {name}-run" in problem
    assert is_reserved(name)
    assert not is_reserved(f"{name}-run")


def test_run_with_a_free_name_is_accepted(tiny_model: ModelRef) -> None:
    assert not problems(names.check, subject(tiny_model.directory, name="database"))


def test_every_name_that_the_report_refuses_is_reserved() -> None:
    assert all(map(is_reserved, summary._RESERVED))
