"""The terminal of a command: one line per stage, bars only where they can be drawn, every warning once."""

import io
import logging
from collections.abc import Callable

import pytest
from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console

from mixcpt.store.spool import Measurement
from tasks import progress
from tasks.progress import ProgressReport
from tasks.terminal import FORWARDED, LINE_SECONDS, Terminal, current_terminal, on_terminal


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def terminal_of(*, is_terminal: bool = False, with_runs: bool = False) -> tuple[Terminal, Callable[[], str], Clock]:
    file, clock = io.StringIO(), Clock()
    console = Console(file=file, force_terminal=is_terminal, width=120, color_system=None)
    return Terminal(console, with_runs=with_runs, clock=clock), file.getvalue, clock


def test_stage_is_one_line_if_it_is_short() -> None:
    terminal, text, _ = terminal_of()
    row = terminal.open_row("my", "pretrain")
    row.show(1, 10, "loss 3")
    row.close("finished after 2 s")
    assert text().split() == ["pretrain", "finished", "after", "2", "s"]


def test_progress_without_a_terminal_is_a_line_at_most_every_ten_seconds() -> None:
    terminal, text, clock = terminal_of()
    row = terminal.open_row("my", "pretrain")
    for step in range(1, 61):
        clock.now += 1.0
        row.show(step, 60, "loss 3")
    row.close("finished after 60 s")
    lines = text().splitlines()
    assert len(lines) == 60 / LINE_SECONDS + 1
    assert lines[0].split() == ["pretrain", "17", "%", "10", "of", "60", "loss", "3"]


def test_lines_name_the_run_if_there_are_several() -> None:
    terminal, text, _ = terminal_of(with_runs=True)
    terminal.open_row("traditional", "sft").close("finished after 2 s")
    assert text().startswith("traditional: sft")


def test_lines_of_runs_are_aligned() -> None:
    terminal, text, _ = terminal_of(with_runs=True)
    for run, stage in (("my-traditional", "sft"), ("my-traditional", "evaluate-pretrained"), ("my", "curate")):
        terminal.open_row(run, stage).close("finished after 2 s")
    assert len({line.index("finished") for line in text().splitlines()}) == 1


def test_bar_of_a_stage_without_steps_shows_no_count() -> None:
    terminal, text, _ = terminal_of(is_terminal=True)
    row = terminal.open_row("my", "curate")
    assert terminal._bar is not None
    terminal._bar.refresh()
    assert "0/?" not in text()
    row.show(5, 10, "")
    terminal._bar.refresh()
    assert "5/10" in text()
    row.close("finished after 2 s")


def test_only_a_training_counts_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(progress._ProgressArtifact, "publish", lambda *arguments: None)
    terminal, text, _ = terminal_of()
    report = ProgressReport("my", terminal)
    stages = {"evaluate-base": "evaluate/progress", "select": "select/scored", "sft": "sft/loss"}
    for stage, metric in stages.items():
        report.start(stage)
        report.show([Measurement(60, {metric: 1.0}, 100.0, total_steps=60)])
        report.finish("finished after 6 s")
    assert ["60 steps" in line for line in text().splitlines()] == [False, False, True]


def test_bars_of_parallel_stages_are_drawn_together_and_leave_one_line_each() -> None:
    terminal, text, _ = terminal_of(is_terminal=True)
    rows = [terminal.open_row("my", name) for name in ("curate", "evaluate-base")]
    rows[0].show(5, 10, "")
    terminal.warn("odd")
    for row in rows:
        row.close("finished after 1 s")
    assert terminal._bar is None
    ends = [line for line in text().splitlines() if "finished" in line]
    assert len(ends) == 2
    assert [line.count("finished") for line in ends] == [1, 1]


@pytest.mark.parametrize("total", [None, 20])
def test_report_shows_loss_rate_and_end_of_a_training(monkeypatch: pytest.MonkeyPatch, total: int | None) -> None:
    monkeypatch.setattr(progress, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(progress._ProgressArtifact, "publish", lambda *arguments: None)
    terminal, text, clock = terminal_of()
    report = ProgressReport("my", terminal)
    report.start("pretrain")
    for step in (1, 11):
        clock.now += LINE_SECONDS
        metrics = {"train/loss": 3.25, "train/tokens_per_second": 1234.0}
        report.show([Measurement(step, metrics, 100.0 + step, total_steps=total)])
    report.finish("finished after 20 s")
    lines = text().splitlines()
    assert len(lines) == 3
    assert all("loss 3.25  tokens/s 1,234" in line for line in lines)
    assert ("9.0 s left, until" in lines[1]) is (total is not None)
    assert "finished after 20 s" in lines[2]


def test_only_warnings_of_mixcpt_and_prefect_are_printed_and_only_once() -> None:
    terminal, text, _ = terminal_of()
    run = logging.getLogger("prefect.flow_runs")
    run.setLevel(logging.INFO)
    with on_terminal(terminal):
        for _ in range(2):
            run.info("Beginning flow run")
            run.info("View at http://127.0.0.1:1234/runs")
            run.warning("mixcpt.curation: docs: 11 of 18 records lost", extra={FORWARDED: True})
            run.warning("transformers.trainer: odd", extra={FORWARDED: True})
            run.error("Finished in state Failed('...')")
            run.error("Encountered exception during execution: ...")
            run.info("Task run failed with exception: StageInterrupted. Retry 1/2 will start 5 second(s) from now")
            logging.getLogger("alembic").warning("chatter")
        assert current_terminal() is terminal
    assert text().splitlines() == [
        "warning: docs: 11 of 18 records lost",
        "warning: Task run failed with exception: StageInterrupted. Retry 1/2 will start 5 second(s) from now",
    ]
    assert current_terminal() is not terminal


def test_consoles_of_prefect_are_silent_only_while_the_terminal_is_used() -> None:
    logger, console = logging.getLogger("prefect.test_terminal"), PrefectConsoleHandler()
    record = logging.LogRecord("prefect.test_terminal", logging.INFO, "", 1, "a line", (), None)
    logger.addHandler(console)
    try:
        with on_terminal(terminal_of()[0]):
            assert not console.filter(record)
        assert console.filter(record)
        assert logger.handlers == [console]
    finally:
        logger.removeHandler(console)
