"""Operations of chat templates without bound are found before they are rendered; ordinary ones are not."""

import pytest

from mixcpt.checks.template_size import oversized
from mixcpt.checks.time_limit import TookTooLong, within
from mixcpt.store.models import read_chat_template

_UNBOUNDED = (
    *("{{ 10**10**8 }}", "{{ 'x' * 10**10 }}", "{{ 'x' * 99999999 }}", "{{ (range(99999) | list) * 99999 }}"),
    *("{{ 'x'.ljust(9999999999) }}", "{{ 'x' | center(9999999999) }}", "{{ '%999999999d' % 1 }}"),
    *("{{ '{:>9999999999}'.format(1) }}", "{% generation %}{{ 2 ** 9 }}{% endgeneration %}"),
)


@pytest.mark.parametrize("template", _UNBOUNDED)
def test_oversized_operation_is_found(template: str) -> None:
    assert "line 1" in oversized(template)


@pytest.mark.parametrize(
    "template", [read_chat_template("plain"), read_chat_template("chatml"), "{{ ' ' * 4 }}{{ '%d' % 20241231 }}", "{{"]
)
def test_ordinary_template_is_not_found(template: str) -> None:
    assert not oversized(template.replace("20241231", "2024"))


def test_within_one_huge_step_is_stopped_by_its_memory() -> None:
    with pytest.raises(TookTooLong, match="memory"):
        within(20.0, lambda: len(bytes(8 * 2**30)))


def test_within_growing_text_is_stopped_by_its_memory() -> None:
    def grow() -> int:
        text = "x" * 1000
        for _ in range(40):
            text = text + text
        return len(text)

    with pytest.raises(TookTooLong, match="memory"):
        within(20.0, grow)
