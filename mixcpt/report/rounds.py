"""Rounds as text and as a page: results by corpus, forgetting in later rounds, and gates."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixcpt.evaluate.guessing import MIN_PASSAGES
from mixcpt.records.round import Judgement, Round, load_rounds
from mixcpt.report import words
from mixcpt.report.html import render_page, write_page
from mixcpt.report.table import markdown_rows
from mixcpt.report.verdict import NOT_MEASURED
from mixcpt.rounds.matrix import GENERAL, Column, Forgotten, Matrix, Row, general_task, matrix
from mixcpt.store.artifacts import ArtifactStore

_EXTENTS = {"sure": "whole interval", "likely": "estimate", "possible": "part of the interval"}
"""Part of the interval that has to fulfil a gate, by rule."""


def markdown_rounds(history: Sequence[Round]) -> str:
    """Return the verdict of the last round and the table of all rounds as Markdown."""
    table = matrix(history)
    heading = ["round", *(_full_heading(column) for column in table.columns), "decision"]
    body = [[row_name(row), *cells(row, table), row.decision or ""] for row in table.rows]
    verdicts = [*lead(history), forgetting_verdict(table)]
    return "\n\n".join([*(words.markdown(verdict) for verdict in verdicts), markdown_rows([heading, *body])])


def lead(history: Sequence[Round]) -> list[str]:
    """Return the first sentences about the rounds; if forgetting was not measured, the first one says so."""
    warning = [] if general_task(history[-1]) else [NOT_MEASURED]
    return [*warning, round_verdict(history[-1])]


def round_verdict(latest: Round) -> str:
    """Return the corpora of a round and its decision as one sentence."""
    learned = words.listing([words.printable(name) for name in latest.new])
    return f"Round {latest.number} learned {learned}: {latest.decision}. {latest.reason}"


def forgetting_verdict(table: Matrix) -> str:
    """Return the greatest loss on a corpus since the best serving model, and the corpora that cannot show a loss."""
    columns = {column.corpus: column for column in table.columns}
    losses = [entry for entry in table.forgotten() if entry.corpus != GENERAL]
    if not losses:
        return "No model has served yet."
    unclear = [entry for entry in losses if _cannot_lose(columns[entry.corpus], entry)]
    clear = [entry for entry in losses if entry not in unclear]
    sentences = [_greatest_loss(clear, columns)] if clear else []
    if unclear:
        names = words.listing([words.printable(entry.corpus) for entry in unclear])
        sentences.append(f"Not judged, because of scores at chance or fewer than {MIN_PASSAGES} passages: {names}.")
    return " ".join(sentences)


def _cannot_lose(column: Column, entry: Forgotten) -> bool:
    """Return whether a loss would mean nothing: too few passages, or a best model that guesses."""
    return column.has_few_passages or column.is_at_chance(entry.best)


def _greatest_loss(losses: Sequence[Forgotten], columns: Mapping[str, Column]) -> str:
    worst = max(losses, key=lambda entry: entry.lost)
    column = columns[worst.corpus]
    if worst.lost <= 0:
        return "No corpus was forgotten: the serving model is the best so far on each."
    amount = f"{words.change(column.metric, worst.lost).lstrip('+')} {words.unit(column.metric)}"
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
        lead=lead(history),
        forgetting=forgetting_verdict(table),
        shade=lambda row, column: _shade(table, row, column),
        row_name=row_name,
        cell=_cell,
        heading=_heading,
        notes=_notes,
        rule=gate_rule,
        interval=gate_interval,
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
        for sentence in (*lead(history), forgetting_verdict(table)):
            console.print(Text(sentence))
        page = store.root / f"rounds-{name}.html"
        console.print(f"page: {page}", markup=False, highlight=False, soft_wrap=True)


def _terminal_table(table: Matrix) -> Table:
    shown = Table()
    shown.add_column("round", overflow="fold")
    for column in table.columns:
        shown.add_column(Text(_full_heading(column, "\n")), justify="right")
    shown.add_column("decision")
    for row in table.rows:
        shown.add_row(Text(row_name(row)), *cells(row, table), row.decision or "")
    return shown


def gate_rule(judgement: Judgement) -> str:
    """Return the requirement of a gate in words."""
    if not judgement.is_judged:
        return "a general task, which shows forgetting"
    amount = f"{words.change(judgement.metric, abs(judgement.at_least)).lstrip('+')} {words.unit(judgement.metric)}"
    if judgement.at_least < 0:
        requirement = f"at most {amount} worse than the {judgement.against}"
    elif judgement.at_least > 0:
        requirement = f"{amount} better than the {judgement.against}"
    else:
        requirement = f"{'better' if judgement.rule == 'sure' else 'no worse'} than the {judgement.against}"
    return f"{requirement} ({_EXTENTS[judgement.rule]})"


def gate_interval(judgement: Judgement) -> str:
    """Return the interval of a gain; the number of passages if they are too few for one."""
    if judgement.is_at_chance:
        return f"at chance ({words.value(judgement.metric, judgement.chance)})"
    if judgement.has_interval:
        return words.interval(judgement.metric, judgement.low, judgement.high)
    return words.number_of(judgement.passages, "passage") if judgement.passages else words.MISSING


def row_name(row: Row) -> str:
    """Return the title of a row of the matrix."""
    return f"{row.number}: {words.listing([words.printable(name) for name in row.learned])}" if row.number else "base"


def _heading(column: Column) -> str:
    return words.printable(column.corpus) if column.corpus else f"general ({words.title(column.task)})"


def _notes(column: Column) -> list[str]:
    """Return the chance level of a column, and the number of its passages if they are few."""
    notes = [f"chance {words.value(column.metric, column.chance)}"] if column.chance else []
    return [*notes, words.number_of(column.passages, "passage")] if column.has_few_passages else notes


def _full_heading(column: Column, separator: str = " ") -> str:
    notes = ", ".join(_notes(column))
    return f"{_heading(column)}{separator}({notes})" if notes else _heading(column)


def cells(row: Row, table: Matrix) -> list[str]:
    """Return the values of a model on all corpora as text."""
    return [_cell(row, column) for column in table.columns]


def _cell(row: Row, column: Column) -> str:
    """Return the value of a model on a corpus, with a note if the model guesses."""
    number = row.values.get(column.corpus)
    is_guess = number is not None and column.is_at_chance(number)
    return f"{words.value(column.metric, number)}{' (at chance)' if is_guess else ''}"


def _shade(table: Matrix, row: Row, column: Column) -> float:
    """Return the position of a value within its column, from 0 (worst) to 1 (best); 0 if it shows nothing."""
    if column.has_few_passages or column.is_at_chance(row.values[column.corpus]):
        return 0.0
    values = [other.values[column.corpus] for other in table.rows if column.corpus in other.values]
    value, low, high = row.values[column.corpus], min(values), max(values)
    place = (value - low) / (high - low) if high > low else 1.0
    return place if column.higher_is_better else 1 - place
