"""Tables of a plan for the terminal."""

from operator import attrgetter

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixcpt.planning.estimates import usable_bytes
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
"""Length of the longest word in the names of stages, so that a narrow terminal breaks lines between words."""


def show(plan: Plan, console: Console) -> None:
    """Print the tables of a plan: sources, stages, memory, disk, and warnings."""
    for table in (_sources(plan), _stages(plan), _memory(plan), _disk(plan)):
        console.print(table)
    for line in _summary(plan):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for warning in plan.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)


def _sources(plan: Plan) -> Table:
    table = _table(f"{plan.name}: sources", "source", "pool", "unique tokens", "tokens", "share", "passes")
    total_tokens = max(sum(source.tokens for source in plan.sources), 1)
    for source in plan.sources:
        about = "" if source.is_exact else "~"
        unique_tokens = f"{about}{count(source.unique_tokens)}"
        passes = f"{about}{source.passes:.1f}"
        share = percent(source.tokens / total_tokens)
        table.add_row(Text(source.name), source.pool, unique_tokens, count(source.tokens), share, passes)
    return table


def _stages(plan: Plan) -> Table:
    table = _table("Stages", "stage", "rows", "steps", "tokens", "compute", "time", "peak memory")
    for stage in plan.stages:
        numbers = [count(value) if value else MISSING for value in (stage.rows, stage.steps, stage.tokens)]
        flops = stage.student_flops + stage.teacher_flops
        compute = magnitude(flops, "FLOP") if flops else MISSING
        peak_memory = size(stage.peak_memory_bytes) if stage.peak_memory_bytes else MISSING
        table.add_row(stage.stage, *numbers, compute, duration(stage.seconds), peak_memory)
    table.add_row("start of processes", *[MISSING] * 4, duration(plan.start_seconds), MISSING, end_section=True)
    tokens = count(sum(stage.tokens for stage in plan.stages))
    compute = magnitude(sum(stage.student_flops + stage.teacher_flops for stage in plan.stages), "FLOP")
    table.add_row("total", "", "", tokens, compute, duration(plan.seconds), "", style="bold")
    return table


def _memory(plan: Plan) -> Table:
    table = _table("Memory per device", "part", *(memory.stage for memory in plan.memory))
    for part, title in _PARTS.items():
        table.add_row(title, *(size(memory.parts[part]) for memory in plan.memory))
    table.add_row("total", *(size(memory.total) for memory in plan.memory), style="bold")
    return table


def _disk(plan: Plan) -> Table:
    table = _table("Disk", "mixture", "checkpoints", "models", "teacher's cache", "total", "free")
    disk = plan.disk
    parts = (disk.mixture, disk.checkpoints, disk.models, disk.teacher_cache, disk.total, disk.free)
    table.add_row(*(size(part) for part in parts))
    return table


def _summary(plan: Plan) -> list[str]:
    device = plan.device
    number = f"{device.count} x " if device.count > 1 else ""
    trained = f"{magnitude(plan.num_trained_parameters)} of {magnitude(plan.num_parameters)} parameters are trained"
    if plan.basis == "dry run":
        basis = "time and memory were measured by a dry run on this machine"
    else:
        speed = magnitude(device.peak_flops, "FLOP/s")
        basis = f"time was estimated with {percent(device.utilisation)} of a peak speed of {speed} per device"
    lines = [f"{number}{device.name}, {size(device.memory_bytes)} each; {trained}; {basis}"]
    largest = max(plan.memory, key=attrgetter("total"))
    if largest.total <= (usable := usable_bytes(device)):
        most = f"{largest.stage} needs the most memory, {size(largest.total)} of {size(usable)} that are usable"
        lines.append(f"every stage fits {device.name}: {most}")
    if plan.price_per_hour:
        device_hours = plan.seconds / 3600 * device.count
        lines.append(f"cost: {plan.cost:,.2f} ({device_hours:,.2f} device hours at {plan.price_per_hour:g})")
    return lines


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    first, *others = columns
    table.add_column(first, min_width=_LONGEST_WORD, overflow="fold")
    for column in others:
        is_text = column == "pool"
        table.add_column(column, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    return table
