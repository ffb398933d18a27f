"""Rounds as text and as a page: what each learned, what the rounds after it forgot, and what the gates said."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixcpt.records.round import Round, load_rounds
from mixcpt.report import words
from mixcpt.report.page import environment, write_page
from mixcpt.report.table import markdown_rows
from mixcpt.rounds.gates import Judgement
from mixcpt.rounds.matrix import GENERAL, Column, Matrix, Row, matrix
from mixcpt.store.artifacts import ArtifactStore


def markdown_rounds(made: Sequence[Round]) -> str:
    """Returns the table of rounds and the verdict of the last one as Markdown."""
    table = matrix(made)
    head = ["round", *(_heading(column) for column in table.columns), "decision"]
    body = [[row_name(row), *_cells(row, table), row.decision or ""] for row in table.rows]
    said = [round_verdict(made[-1]), forgetting_verdict(table)]
    return "\n\n".join([*(words.markdown(line) for line in said), markdown_rows([head, *body])])


def round_verdict(made: Round) -> str:
    """Returns one sentence: what a round learned and whether its model serves."""
    learned = words.listing([words.printable(name) for name in made.new])
    return f"Round {made.number} learned {learned}: {made.decision}. {made.reason}"


def forgetting_verdict(table: Matrix) -> str:
    """Returns one sentence on what the models that served have lost of the corpora since they knew them best."""
    columns = {column.corpus: column for column in table.columns}
    lost = [(columns[each.corpus], each) for each in table.forgotten() if each.corpus != GENERAL]
    if not lost:
        return "No model has served yet."
    column, worst = max(lost, key=lambda pair: pair[1].lost)
    amount = f"{words.change(column.metric, worst.lost).lstrip('+')} {words.unit(column.metric)}"
    if worst.lost <= 0:
        return "Of no corpus has anything been forgotten: the last model that serves is the best on each."
    return f"Most was forgotten of {words.printable(column.corpus)}: {amount} since a serving model was best at it."


def write_rounds(made: Sequence[Round], output: Path) -> Path:
    """Returns `output` after writing the page of some rounds there in one step.

    Raises:
        ArtifactError: If the page cannot be written.
    """
    table = matrix(made)
    page = environment().get_template("rounds.html.j2").render(
        rounds=made,
        matrix=table,
        lead=round_verdict(made[-1]),
        forgetting=forgetting_verdict(table),
        shade=lambda row, column: _shade(table, row, column),
        row_name=row_name,
        heading=_heading,
        rule=gate_rule,
    )  # fmt: skip
    return write_page(page, output)


def show_rounds(made: Round | None, name: str, store: ArtifactStore) -> None:
    """Prints what the round came to, the table of all rounds, and where their page lies."""
    console = Console()
    so_far = load_rounds(store, name)
    if made is None:
        console.print("nothing new: the champion has learned what is registered, or it was refused")
    if so_far:
        console.print(_terminal_table(matrix(so_far)))
        console.print(Text(forgetting_verdict(matrix(so_far))))
        console.print(Text(round_verdict(so_far[-1])))
        page = store.root / f"rounds-{name}.html"
        console.print(f"page: {page}", markup=False, highlight=False, soft_wrap=True)


def _terminal_table(table: Matrix) -> Table:
    shown = Table()
    shown.add_column("round", overflow="fold")
    for column in table.columns:
        shown.add_column(Text(_heading(column)), justify="right")
    shown.add_column("decision")
    for row in table.rows:
        shown.add_row(Text(row_name(row)), *_cells(row, table), row.decision or "")
    return shown


def gate_rule(judgement: Judgement) -> str:
    """Returns what a gate asks for, in words."""
    sureness = {"sure": "surely", "likely": "as measured", "possible": "possibly"}[judgement.rule]
    amount = f"{words.change(judgement.metric, abs(judgement.at_least)).lstrip('+')} {words.unit(judgement.metric)}"
    if judgement.at_least < 0:
        return f"{sureness} at most {amount} worse than the {judgement.against}"
    if judgement.at_least > 0:
        return f"{sureness} {amount} better than the {judgement.against}"
    return f"{sureness} {'better' if judgement.rule == 'sure' else 'no worse'} than the {judgement.against}"


def row_name(row: Row) -> str:
    """Returns what a row of the matrix is called."""
    return f"{row.number}: {words.listing([words.printable(name) for name in row.learned])}" if row.number else "base"


def _heading(column: Column) -> str:
    return words.printable(column.corpus) if column.corpus else f"general ({words.title(column.task)})"


def _cells(row: Row, table: Matrix) -> list[str]:
    return [words.value(column.metric, row.values.get(column.corpus)) for column in table.columns]


def _shade(table: Matrix, row: Row, column: Column) -> float:
    """Returns how good a value is among those of its column: 0 the worst, 1 the best."""
    values = [each.values[column.corpus] for each in table.rows if column.corpus in each.values]
    value, low, high = row.values[column.corpus], min(values), max(values)
    place = (value - low) / (high - low) if high > low else 1.0
    return place if column.higher_is_better else 1 - place
