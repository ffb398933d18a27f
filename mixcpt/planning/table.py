"""A plan on the terminal."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixcpt.records.plan import Plan
from mixcpt.report.words import MISSING, count, duration, magnitude, percent, size

_PARTS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "teacher": "teacher",
    "activations": "activations",
    "head": "head and loss",
    "process": "process",
}
_LONGEST_WORD = len("evaluation")
"""Characters of the longest word in the names of stages: a narrow terminal folds between words, not within."""


def show(plan: Plan, console: Console) -> None:
    """Prints a plan: what is read, what each stage takes, what fills device and disk, and what will not fit."""
    for table in (_sources(plan), _stages(plan), _memory(plan), _disk(plan)):
        console.print(table)
    for line in _summary(plan):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for warning in plan.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)


def _sources(plan: Plan) -> Table:
    table = _table(f"{plan.name}: what is read", "source", "pool", "unique tokens", "tokens", "share", "passes")
    whole = max(sum(source.tokens for source in plan.sources), 1)
    for source in plan.sources:
        about = "" if source.is_exact else "~"
        unique = f"{about}{count(source.unique_tokens)}"
        passes = f"{about}{source.passes:.1f}"
        share = percent(source.tokens / whole)
        table.add_row(Text(source.name), source.pool, unique, count(source.tokens), share, passes)
    return table


def _stages(plan: Plan) -> Table:
    table = _table("Stages", "stage", "rows", "steps", "tokens", "student", "teacher", "time", "peak memory")
    for stage in plan.stages:
        numbers = [count(value) if value else MISSING for value in (stage.rows, stage.steps, stage.tokens)]
        flops = [magnitude(value, "FLOP") if value else MISSING for value in (stage.student_flops, stage.teacher_flops)]
        peak = size(stage.peak_memory_bytes) if stage.peak_memory_bytes else MISSING
        table.add_row(stage.stage, *numbers, *flops, duration(stage.seconds), peak)
    student, teacher = (sum(getattr(s, f"{who}_flops") for s in plan.stages) for who in ("student", "teacher"))
    table.add_row("starting processes", *[MISSING] * 5, duration(plan.start_seconds), MISSING, end_section=True)
    table.add_row(
        *("in all", "", "", count(sum(stage.tokens for stage in plan.stages))),
        *(magnitude(student, "FLOP"), magnitude(teacher, "FLOP"), duration(plan.seconds), ""),
        style="bold",
    )
    return table


def _memory(plan: Plan) -> Table:
    table = _table("Memory of each device", "part", *(memory.stage for memory in plan.memory))
    for part, name in _PARTS.items():
        table.add_row(name, *(size(memory.parts[part]) for memory in plan.memory))
    table.add_row("in all", *(size(memory.total) for memory in plan.memory), style="bold")
    return table


def _disk(plan: Plan) -> Table:
    table = _table("Disk", "mixture", "checkpoints", "models", "teacher's cache", "in all", "free")
    disk = plan.disk
    parts = (disk.mixture, disk.checkpoints, disk.models, disk.teacher_cache, disk.total, disk.free)
    table.add_row(*(size(part) for part in parts))
    return table


def _summary(plan: Plan) -> list[str]:
    device = plan.device
    number = f"{device.count} x " if device.count > 1 else ""
    trained = f"{magnitude(plan.num_trained_parameters)} of {magnitude(plan.num_parameters)} parameters are trained"
    if plan.basis == "trial":
        how = "time and memory as a trial on this machine measured them"
    else:
        speed = magnitude(device.peak_flops, "FLOP/s")
        how = f"time by formulas: {percent(device.utilisation)} of a peak of {speed} each are assumed"
    lines = [f"{number}{device.name}, {size(device.memory_bytes)} each; {trained}; {how}"]
    if plan.price_per_hour:
        hours = plan.seconds / 3600 * device.count
        lines.append(f"cost: {plan.cost:,.2f} ({hours:,.2f} device hours at {plan.price_per_hour:g})")
    return lines


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    first, *others = columns
    table.add_column(first, min_width=_LONGEST_WORD, overflow="fold")
    for column in others:
        table.add_column(column, justify="left" if column == "pool" else "right", overflow="fold")
    return table
