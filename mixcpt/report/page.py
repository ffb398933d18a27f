"""Page of one or more runs: one self-contained HTML file without network access or scripts."""

import base64
import shlex
import time
from collections.abc import Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from rich.console import Console

from mixcpt.config import RuntimeConfig
from mixcpt.config.writing import to_yaml
from mixcpt.errors import ArtifactError
from mixcpt.evaluate.guessing import MIN_PASSAGES
from mixcpt.evaluate.statistics.ledger import MEANINGS, STATES
from mixcpt.records.run import RunResult
from mixcpt.report import table, verdict
from mixcpt.report.ancestry import ancestry_tree
from mixcpt.report.figures import bars, curves, learned, palette, svg, tradeoff
from mixcpt.report.html import render_page, write_page
from mixcpt.report.sections import answers, inputs, provenance, training
from mixcpt.report.summary import Summary, result_line, summarise
from mixcpt.report.view import located
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.fingerprint import fingerprint
from mixcpt.store.lineage import Catalogue

_HEAD_CHARACTERS = 2000


def print_results(results: Sequence[RunResult], started: float | None = None) -> None:
    """Print the verdict, the table of results, the path of their page and the next commands.

    Verdict, table and page are made if the page shows other runs.

    Args:
        results: Finished runs with the same base model.
        started: Unix time at which the command started; if given, a last line for programs is printed.
    """
    store = ArtifactStore(results[0].config.runtime.store)
    output, console, identity = store.root / "report.html", Console(), _identity(results)
    table_path = output.with_suffix(".txt")
    kept_table = _kept_table(table_path, identity) if _shows(output, identity) else ""
    if kept_table and started is None:  # statistics take seconds
        console.print(kept_table, markup=False, highlight=False, soft_wrap=True, end="")
    else:
        summary = summarise(results)
        _print_summary(summary, console)
        if not kept_table:
            write_report(results, store, output, summary)
            with table_path.open("w") as file:
                file.write(f"{identity}\n")
                _print_summary(summary, Console(file=file, width=console.width))
    name, place = results[-1].name, results[-1].config.runtime.store
    option = "" if place == RuntimeConfig().store else f" --store {shlex.quote(place)}"
    for line in (f"report: {output}", f"next: mixcpt chat {name} --beside {name}@base{option}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if started is not None:
        print(result_line(summary, time.time() - started), flush=True)


def _print_summary(summary: Summary, console: Console) -> None:
    """Print the verdict and the table of results."""
    for sentence in verdict.lead(summary):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    console.print(table.result_table(summary))


def _kept_table(path: Path, identity: str) -> str:
    """Return the table in a file whose first line is the identity of its runs; empty if it shows other runs."""
    first, _, rest = path.read_text().partition("\n") if path.is_file() else ("", "", "")
    return rest if first == identity else ""


def write_report(runs: Sequence[RunResult], store: ArtifactStore, output: Path, summary: Summary | None = None) -> Path:
    """Write the page of one or more runs to `output` atomically and return `output`.

    Args:
        runs: The runs.
        store: Store with their artifacts.
        output: Path of the page.
        summary: Summary of the same runs if it exists already; computing it takes about a second.

    Raises:
        ArtifactError: If an artifact of a run is missing or the page cannot be written.
        ConfigError, DataError: If the runs cannot be compared; see `summarise`.
    """
    if output.is_dir():
        raise ArtifactError(f"cannot write the report to {output}: it is a folder", "give the path of a file")
    return write_page(_page([located(run, store) for run in runs], store, summary), output)


def _shows(output: Path, identity: str) -> bool:
    """Return whether a file is the page of exactly the runs with this identity."""
    try:
        with output.open(encoding="utf-8", errors="replace") as page:
            return f'content="{identity}"' in page.read(_HEAD_CHARACTERS)
    except OSError:
        return False


def _identity(runs: Sequence[RunResult]) -> str:
    return fingerprint({"runs": [run.to_json() for run in runs], "version": version("mixcpt")})


def _page(runs: Sequence[RunResult], store: ArtifactStore, summary: Summary | None) -> str:
    """Return the page as HTML; the same runs in the same store give the same page."""
    summary = summary or summarise(runs)
    catalogue = Catalogue(store)
    trainings = training.trainings(runs)
    all_curves = chain.from_iterable(view.curves for view in trainings)
    return render_page(
        "report.html.j2",
        identity=_identity(runs),
        runs=runs,
        summary=summary,
        table=table,
        verdict=verdict,
        has_interval=verdict.has_interval,
        min_passages=MIN_PASSAGES,
        lead=verdict.lead(summary),
        marks=dict(zip([run.name for run in runs], palette.run_marks(len(runs)), strict=True)),
        tradeoff=_main_picture(summary),
        bars=[_bars_picture(summary, metric) for metric in bars.metrics(summary)],
        ledgers=[answers.facts(run) for run in runs],
        fact_states=STATES,
        fact_meanings=MEANINGS,
        examples=answers.examples(runs, runs[0].config.evaluate.num_examples, runs[0].config.seed),
        corpora=inputs.corpora(runs),
        mixtures=inputs.mixtures(runs),
        selections=inputs.selections(runs),
        trainings=trainings,
        curves={curve.name: _curve_picture(curve) for curve in all_curves},
        diagnostics=training.DIAGNOSTICS,
        ancestries={run.name: ancestry_tree(catalogue, run.refs[run.final]) for run in runs},
        links=provenance.links(runs),
        tracked={run.name: provenance.tracked(run) for run in runs},
        differences=provenance.differences(runs),
        settings={run.name: to_yaml(run.config, comments=False) for run in runs},
        data_link=_data_link,
        libraries=provenance.libraries(),
    )


def _data_link(yaml: str) -> str:
    return "data:application/yaml;base64," + base64.b64encode(yaml.encode()).decode()


def _main_picture(summary: Summary) -> svg.Picture:
    """Draw learned against forgotten, or only the learned axis if forgetting was not measured."""
    if not summary.headline_general:
        return svg.picture(learned.draw_learned(summary), "learned", learned.describe_learned(summary))
    return svg.picture(tradeoff.draw_tradeoff(summary), "tradeoff", tradeoff.describe_tradeoff(summary))


def _bars_picture(summary: Summary, metric: str) -> svg.Picture:
    return svg.picture(bars.draw_bars(summary, metric), f"bars-{metric}", bars.describe_bars(summary, metric))


def _curve_picture(curve: training.Curve) -> svg.Picture:
    caption = curves.describe_curves(curve.series)
    figure = curves.draw_curves(curve.series, curve.title, curve.unit, top=curve.top, sources=curve.sources)
    return svg.Picture(svg.inline(figure, curve.name, f"{curve.title}, in {curve.unit}. {caption}"), caption)
