"""The result table: readable without colour in a terminal, harmless in Markdown."""

from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from mixcpt.report import words
from mixcpt.report.summary import Summary, summarise
from mixcpt.report.table import markdown_table, result_table
from mixcpt.store.artifacts import ArtifactStore
from tests.unit.report_artifacts import hits, run

DOMAIN, GENERAL = "domain_questions", "general_questions_unasked"
HOSTILE = "<script>alert(1)</script>|[x](javascript:y)|`\x1b[31m[bold]red"


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    store = ArtifactStore(tmp_path_factory.mktemp("store"))
    base = {DOMAIN: hits(40, 0.0), GENERAL: hits(50, 0.9)}
    traditional = {DOMAIN: hits(40, 0.1), GENERAL: hits(50, 0.3)}
    mixcpt = {DOMAIN: hits(40, 0.9), GENERAL: hits(50, 0.9)}
    return summarise(
        [
            run(store, "traditional", base_right=base, final_right=traditional, extra_task=HOSTILE),
            run(store, "mixcpt", base_right=base, final_right=mixcpt, extra_task=HOSTILE),
        ]
    )


def printed(summary: Summary, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"), color_system=None)  # noqa: PTH123, SIM115
    console.print(result_table(summary))
    return console.export_text().replace("\u00a0", " ")


def test_terminal_table_fits_and_tells_directions_without_colour(summary: Summary) -> None:
    text = printed(summary)
    assert max(len(line) for line in text.splitlines()) <= 100
    lines = text.splitlines()
    domain = next(index for index, line in enumerate(lines) if "domain questions" in line)
    assert [cell.strip() for cell in lines[domain].split("│")[1:-1]] == [
        "domain questions",
        "0.0 %",
        "10.0 %",
        "90.0 %",
    ]
    assert "▲ +10.0 [" in lines[domain + 1] and "▲ +90.0 [" in lines[domain + 1]
    general = next(index for index, line in enumerate(lines) if "general questions" in line)
    assert "▼ −60.0 [" in lines[general + 1] and "≈ 0.0 [−7.1, +7.1]" in lines[general + 1]


def test_terminal_table_shows_foreign_names_as_they_are(summary: Summary) -> None:
    text = printed(summary, width=200)
    assert "\x1b" not in text
    assert "<script>alert(1)</script>" in text and "[bold]red" in text


def test_markdown_table_renders_as_one_table_without_foreign_markup(summary: Summary) -> None:
    html = (
        MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown_table(summary)).replace("\u00a0", " ")
    )
    assert html.count("<table>") == 1
    assert "<script" not in html and "<a " not in html and "<code" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|" in html
    rows = html.split("<tr>")[1:]
    assert {row.count("<th") + row.count("<td") for row in rows} == {4}
    assert "10.0 % ▲ +10.0 [" in html


def test_markdown_table_of_one_run_has_three_columns(tmp_path: Path) -> None:
    base = {DOMAIN: hits(40, 0.0), GENERAL: hits(50, 0.9)}
    text = markdown_table(summarise([run(ArtifactStore(tmp_path), "only", base_right=base, final_right=base)]))
    assert text.splitlines()[0] == "| task | base (plain) | only (chat) |"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.value("accuracy", 0.9913), "99.1 %"),
        (words.value("bits_per_byte", 1.23456), "1.235"),
        (words.value("accuracy", float("nan")), "–"),
        (words.change("accuracy", -0.156), "−15.6"),
        (words.change("accuracy", -0.0001), "0.0"),
        (words.change("bits_per_byte", 0.5), "+0.500"),
        (words.magnitude(21.76e12, "FLOP"), "21.8 TFLOP"),
        (words.magnitude(999), "999"),
        (words.size(1_450_000_000), "1.35 GiB"),
        (words.size(259), "259 B"),
        (words.duration(59.94), "59.9 s"),
        (words.duration(185), "3 min 05 s"),
        (words.duration(7_799.9), "2 h 10 min"),
        (words.count(None), "–"),
        (words.listing(["a"]), "a"),
        (words.listing(["a", "b", "c"]), "a, b and c"),
        (words.shortened("a\n b\x00c", 10), "a b\ufffdc"),
        (words.shortened("abcdefgh", 5), "abcd…"),
    ],
)
def test_words_write_numbers_and_texts(written: str, expected: str) -> None:
    assert written.replace("\u00a0", " ") == expected
