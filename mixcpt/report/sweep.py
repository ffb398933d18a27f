"""Results of a sweep over interpolations: a table of scores, and the selected weight in words."""

from rich.table import Table

from mixcpt.evaluate.summary import TaskScore
from mixcpt.merge.sweep import SweepReport
from mixcpt.report import words
from mixcpt.report.table import task_cell
from mixcpt.report.verdict import NOT_MEASURED


def sweep_table(report: SweepReport) -> Table:
    """Return the scores of every weight on the report questions for a terminal."""
    title = "score at each weight, with its standard error"
    table = Table(title=title if report.general_task else f"{NOT_MEASURED}\n{title}")
    table.add_column("task", overflow="fold")
    for point in report.points:
        table.add_column(f"{point.weight:g}{' *' if point is report.selected else ''}", justify="right")
    for task, score in report.points[0].scores.items():
        cells = [_cell(point.scores[task]) for point in report.points]
        table.add_row(task_cell(task, score.metric, score.chance), *cells)
    return table


def _cell(score: TaskScore) -> str:
    """Return a score with its standard error; without one at chance or for too few passages."""
    value = words.value(score.metric, score.value)
    if score.has_few_passages:
        return f"{value}\n{words.number_of(score.num_passages, 'passage')}"
    if score.is_at_chance:
        return f"{value}\nat chance"
    return f"{value}\n± {words.value(score.metric, score.stderr)}"


def sweep_choice(report: SweepReport) -> list[str]:
    """Return the selected weight with its reason, its scores and its folder."""
    chosen, domain = report.selected, report.selected.scores[report.domain_task]
    loss = words.change(domain.metric, report.max_domain_loss).lstrip("+")
    close = f"whose {words.title(domain.task)} is within {loss} {words.unit(domain.metric)} of the best"
    if report.general_task:
        general = chosen.scores[report.general_task]
        reason = f"best {words.title(general.task)} on the selection questions among the weights {close}."
        values = f"{words.value(general.metric, general.value)} and {words.value(domain.metric, domain.value)}"
        lines = [f"* weight {chosen.weight:g}: {reason}", f"Scores on the report questions: {values}."]
    else:
        reason = f"the smallest weight {close} on the selection questions, because it changes the base least."
        value = words.value(domain.metric, domain.value)
        lines = [f"* weight {chosen.weight:g}: {reason}", f"Score on the report questions: {value}."]
    return [*lines, *_doubts(report), str(chosen.model.file("model"))]


def _doubts(report: SweepReport) -> list[str]:
    """Return the headline tasks whose selection questions cannot tell one weight from another."""
    doubts = []
    for task in filter(None, (report.domain_task, report.general_task)):
        scores = [point.selection_scores[task] for point in report.points]
        if scores[0].has_few_passages:
            passages = words.number_of(scores[0].num_passages, "passage")
            doubts.append(
                f"{words.title(task)} has {passages} on the selection questions, too few to tell weights apart."
            )
        elif all(score.is_at_chance for score in scores):
            chance = words.value("accuracy", scores[0].chance)
            doubts.append(f"{words.title(task)} is at chance ({chance}) at every weight: this choice is a guess.")
    return doubts
