"""Result table for a terminal and as Markdown: base, and each run with its change and interval."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from mixcpt.evaluate.guessing import MIN_PASSAGES
from mixcpt.report import words
from mixcpt.report.sections.provenance import Cost
from mixcpt.report.summary import ModelSummary, Summary, TaskValue
from mixcpt.report.verdict import MARKS, NOT_MEASURED, Direction, change_cell, direction

if TYPE_CHECKING:
    from pandas import DataFrame

_STYLES = {Direction.BETTER: "green", Direction.WORSE: "red"}


def result_table(summary: Summary) -> Table:
    """Return the table for a terminal; arrows repeat the meaning of the colours."""
    title = f"{words.listing([run.name for run in summary.runs])} against {words.printable(summary.base_name)}"
    warning = "" if summary.headline_general else f"{NOT_MEASURED} "
    table = Table(title=Text(title), caption=Text(warning + legend(summary)), caption_justify="left")
    table.add_column("task", overflow="fold")
    for model in _models(summary):
        table.add_column(Text(_heading(model)), justify="right")
    group = ""
    for task, base in summary.base.tasks.items():
        if group and base.group != group:
            table.add_section()
        group = base.group
        first = task_cell(task, base.metric, summary.chances.get(task), is_headline=task in summary.headlines)
        table.add_row(first, *_terminal_cells(summary, task))
    table.add_section()
    for name, cells in _cost_rows([run.cost for run in summary.runs]):
        table.add_row(name, "", *cells)
    return table


def task_cell(task: str, metric: str, chance: float | None, *, is_headline: bool = False) -> Text:
    """Return the title of a task for a terminal, with the score of guessing below it."""
    cell = Text(words.title(task), style="bold" if is_headline else "")
    if chance:
        cell.append(f"\nchance {words.value(metric, chance)}", style="not bold dim")
    return cell


def counts_table(counts: "DataFrame", title: str) -> Table:
    """Return the number of facts in each state for a terminal, one row per task; `at chance` only if it occurs."""
    counts = counts.drop(columns=[state for state in ("at chance",) if state in counts and not counts[state].any()])
    table = Table(title=Text(title))
    table.add_column("task", overflow="fold")
    for state in counts.columns:
        table.add_column(str(state), justify="right")
    for task, row in counts.iterrows():
        table.add_row(Text(words.title(str(task))), *(words.count(number) if number else "" for number in row))
    return table


def markdown_table(summary: Summary) -> str:
    """Return the table as Markdown with its legend, below a warning if forgetting was not measured."""
    chances, models = summary.chances, _models(summary)
    rows = [["task", *(["chance"] if chances else []), *(_heading(model).replace("\n", " ") for model in models)]]
    for task in summary.base.tasks:
        chance = [words.value("accuracy", chances.get(task))] if chances else []
        rows.append([words.title(task), *chance, *(_markdown_cell(model.tasks[task]) for model in models)])
    empty = [""] * (len(rows[0]) - len(summary.runs) - 1)
    rows += [[name, *empty, *cells] for name, cells in _cost_rows([run.cost for run in summary.runs])]
    warning = "" if summary.headline_general else f"{NOT_MEASURED}\n\n"
    return f"{warning}{markdown_rows(rows)}\n{words.markdown(legend(summary))}\n"


def markdown_rows(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a Markdown table with the first row as header; the text of the cells is escaped."""
    lines = ["| " + " | ".join(words.markdown(cell) for cell in row) + " |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return "\n".join(lines) + "\n"


def legend(summary: Summary) -> str:
    """Return the legend of the table."""
    better, worse, unsure = (MARKS[way] for way in (Direction.BETTER, Direction.WORSE, Direction.UNSURE))
    text = (
        f"Change from the base with its {words.level(summary.confidence)} interval (paired bootstrap over passages), "
        f"accuracy in points. {better} better, {worse} worse, {unsure} no significant change."
    )
    ways = set(map(direction, summary.changes))
    if Direction.UNKNOWN in ways:
        text += f" {MARKS[Direction.UNKNOWN]} fewer than {MIN_PASSAGES} passages, too few for an interval."
    if Direction.GUESSED in ways:
        text += " At chance: neither model differs from guessing."
    return text


def _models(summary: Summary) -> list[ModelSummary]:
    return [summary.base, *(run.final for run in summary.runs)]


def _heading(model: ModelSummary) -> str:
    return f"{words.printable(model.run or 'base')}\n({model.form})"


def _terminal_cells(summary: Summary, task: str) -> list[Text]:
    cells = [Text(words.value(summary.base.tasks[task].metric, summary.base.tasks[task].value))]
    for run in summary.runs:
        value = run.final.tasks[task]
        cell = Text(words.value(value.metric, value.value), style="bold")
        if value.change:
            style = _STYLES.get(direction(value.change), "dim")
            cell.append("\n" + change_cell(value.change), style=f"not bold {style}")
        cells.append(cell)
    return cells


def _markdown_cell(value: TaskValue) -> str:
    return f"{words.value(value.metric, value.value)} {change_cell(value.change)}".rstrip()


def _cost_rows(costs: Sequence[Cost]) -> list[tuple[str, list[str]]]:
    return [
        ("tokens trained on", [words.count(cost.tokens) for cost in costs]),
        ("compute", [words.magnitude(cost.flops, "FLOP") for cost in costs]),
        ("time of all stages", [words.duration(cost.seconds) for cost in costs]),
        ("peak memory", [words.size(cost.peak_memory_bytes) for cost in costs]),
    ]
