"""Rounds as text and as a page: results by corpus, forgetting in later rounds, and gates."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixcpt.records.round import Judgement, Round, load_rounds
from mixcpt.report import words
from mixcpt.report.html import render_page, write_page
from mixcpt.report.table import markdown_rows
from mixcpt.rounds.matrix import GENERAL, Column, Matrix, Row, matrix
from mixcpt.store.artifacts import ArtifactStore

_EXTENTS = {"sure": "whole interval", "likely": "estimate", "possible": "part of the interval"}
"""Part of the interval that has to fulfil a gate, by rule."""


def markdown_rounds(history: Sequence[Round]) -> str:
    """Return the verdict of the last round and the table of all rounds as Markdown."""
    table = matrix(history)
    heading = ["round", *(_heading(column) for column in table.columns), "decision"]
    body = [[row_name(row), *_cells(row, table), row.decision or ""] for row in table.rows]
    verdicts = [round_verdict(history[-1]), forgetting_verdict(table)]
    return "\n\n".join([*(words.markdown(verdict) for verdict in verdicts), markdown_rows([heading, *body])])


def round_verdict(latest: Round) -> str:
    """Return the corpora of a round and its decision as one sentence."""
    learned = words.listing([words.printable(name) for name in latest.new])
    return f"Round {latest.number} learned {learned}: {latest.decision}. {latest.reason}"


def forgetting_verdict(table: Matrix) -> str:
    """Return the greatest loss on a corpus since the best serving model as one sentence."""
    columns = {column.corpus: column for column in table.columns}
    losses = [entry for entry in table.forgotten() if entry.corpus != GENERAL]
    if not losses:
        return "No model has served yet."
    worst = max(losses, key=lambda entry: entry.lost)
    column = columns[worst.corpus]
    amount = f"{words.change(column.metric, worst.lost).lstrip('+')} {words.unit(column.metric)}"
    if worst.lost <= 0:
        return "Nothing was forgotten: the serving model is the best so far on each corpus."
    return f"The greatest loss is on {words.printable(column.corpus)}: {amount} since the best serving model."


def write_rounds(history: Sequence[Round], output: Path) -> Path:
    """Write the page of the rounds to `output` atomically and return `output`.

    Raises:
        ArtifactError: If the page cannot be written.
    """
    table = matrix(history)
    page = render_page(
        "rounds.html.j2",
        rounds=history,
        matrix=table,
        lead=round_verdict(history[-1]),
        forgetting=forgetting_verdict(table),
        shade=lambda row, column: _shade(table, row, column),
        row_name=row_name,
        heading=_heading,
        rule=gate_rule,
    )
    return write_page(page, output)


def show_rounds(latest: Round | None, name: str, store: ArtifactStore) -> None:
    """Print the table of all rounds, the verdicts and the path of the page."""
    console = Console()
    history = load_rounds(store, name)
    if latest is None:
        console.print("no new round: every registered corpus was learned or refused")
    if history:
        table = matrix(history)
        console.print(_terminal_table(table))
        console.print(Text(forgetting_verdict(table)))
        console.print(Text(round_verdict(history[-1])))
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
    """Return the requirement of a gate in words."""
    amount = f"{words.change(judgement.metric, abs(judgement.at_least)).lstrip('+')} {words.unit(judgement.metric)}"
    if judgement.at_least < 0:
        requirement = f"at most {amount} worse than the {judgement.against}"
    elif judgement.at_least > 0:
        requirement = f"{amount} better than the {judgement.against}"
    else:
        requirement = f"{'better' if judgement.rule == 'sure' else 'no worse'} than the {judgement.against}"
    return f"{requirement} ({_EXTENTS[judgement.rule]})"


def row_name(row: Row) -> str:
    """Return the title of a row of the matrix."""
    return f"{row.number}: {words.listing([words.printable(name) for name in row.learned])}" if row.number else "base"


def _heading(column: Column) -> str:
    return words.printable(column.corpus) if column.corpus else f"general ({words.title(column.task)})"


def _cells(row: Row, table: Matrix) -> list[str]:
    return [words.value(column.metric, row.values.get(column.corpus)) for column in table.columns]


def _shade(table: Matrix, row: Row, column: Column) -> float:
    """Return the position of a value within its column, from 0 (worst) to 1 (best)."""
    values = [other.values[column.corpus] for other in table.rows if column.corpus in other.values]
    value, low, high = row.values[column.corpus], min(values), max(values)
    place = (value - low) / (high - low) if high > low else 1.0
    return place if column.higher_is_better else 1 - place
