"""The page of one or more runs: one HTML file that needs nothing else, neither network nor script."""

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from mixcpt import __version__
from mixcpt.config.writing import to_yaml
from mixcpt.errors import ArtifactError
from mixcpt.evaluate.statistics.ledger import MEANINGS, STATES
from mixcpt.records.run import RunResult
from mixcpt.report import table, verdict, words
from mixcpt.report.ancestry import ancestry_tree
from mixcpt.report.figures import bars, curves, palette, svg, tradeoff
from mixcpt.report.sections import ingredients, training
from mixcpt.report.sections import provenance as lineage
from mixcpt.report.sections.examples import examples
from mixcpt.report.sections.facts import facts
from mixcpt.report.sections.promise import promise_verdict
from mixcpt.report.summary import Summary, summarise
from mixcpt.report.view import located
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.fingerprint import fingerprint
from mixcpt.store.lineage import Catalogue

_HEAD_CHARACTERS = 2000
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Picture:
    """An inline figure with its caption, which also describes it to those who cannot see it."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Settings:
    """The settings of one run as a file that runs it again."""

    run: str
    file_name: str
    yaml: str

    @property
    def link(self) -> str:
        return "data:application/yaml;base64," + base64.b64encode(self.yaml.encode()).decode()


def write_report(runs: Sequence[RunResult], store: ArtifactStore, output: Path, summary: Summary | None = None) -> Path:
    """Returns `output` after writing the page of `runs` there in one step; several are shown side by side.

    Args:
        runs: What is shown.
        store: Where their artifacts are.
        output: The file.
        summary: Of the same runs, where it is known already; its intervals take a second.

    Raises:
        ArtifactError: If an artifact of a run is gone, or the page cannot be written.
        ConfigError, DataError: If the runs cannot stand side by side; see `summarise`.
    """
    if output.is_dir():
        raise ArtifactError(f"cannot write the report to {output}: it is a folder", "name a file")
    return write_page(render([located(run, store) for run in runs], store, summary), output)


def write_page(page: str, output: Path) -> Path:
    """Returns `output` after writing a page there in one step.

    Raises:
        ArtifactError: If it cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".report-") as folder:
            draft = Path(folder) / "page.html"
            draft.write_bytes(page.encode("utf-8", "replace"))
            draft.replace(output)
    except OSError as error:
        raise ArtifactError(
            f"cannot write the report to {output}: {error.strerror or error}", "name another file"
        ) from error
    return output


def shows(output: Path, runs: Sequence[RunResult]) -> bool:
    """Return whether a file is the page of exactly these runs, written by this version of mixcpt."""
    try:
        with output.open(encoding="utf-8", errors="replace") as page:
            return f'content="{_identity(runs)}"' in page.read(_HEAD_CHARACTERS)
    except OSError:
        return False


def _identity(runs: Sequence[RunResult]) -> str:
    return fingerprint({"runs": [run.to_json() for run in runs], "version": __version__})


def render(runs: Sequence[RunResult], store: ArtifactStore, summary: Summary | None = None) -> str:
    """Returns the page as HTML; the same runs in the same store give the same page."""
    summary = summary or summarise(runs)
    catalogue = Catalogue(store)
    evaluate = runs[0].config.evaluate
    shown = training.trainings(runs)
    return environment().get_template("report.html.j2").render(
        identity=_identity(runs),
        runs=runs,
        summary=summary,
        table=table,
        verdict=verdict,
        promise_verdict=promise_verdict,
        lead=_lead(summary),
        marks=dict(zip([run.name for run in runs], palette.run_marks(len(runs)), strict=True)),
        tradeoff=_tradeoff_picture(summary),
        bars=[_bars_picture(summary, metric) for metric in bars.metrics(summary)],
        ledgers=[facts(run) for run in runs],
        fact_states=STATES,
        fact_meanings=MEANINGS,
        examples=examples(runs, evaluate.num_examples, runs[0].config.seed),
        corpora=ingredients.corpora(runs),
        mixtures=ingredients.mixtures(runs),
        selections=ingredients.selections(runs),
        trainings=shown,
        curves={curve.name: _curve_picture(curve) for view in shown for curve in view.curves},
        diagnostics=training.DIAGNOSTICS,
        descents={run.name: ancestry_tree(catalogue, run.refs[run.final]) for run in runs},
        links=lineage.links(runs),
        tracked={run.name: lineage.tracked(run) for run in runs},
        differences=lineage.differences(runs),
        settings=[Settings(run.name, f"{run.name}.yaml", to_yaml(run.config, comments=False)) for run in runs],
        libraries=lineage.libraries(),
    )  # fmt: skip


def environment() -> jinja2.Environment:
    """Returns what pages are rendered with: all text escaped, nothing undefined let pass."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: words.printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in (
        *("chance", "change", "count", "duration", "interval", "level", "listing", "magnitude", "percent"),
        *("score", "shortened"),
    ):
        environment.filters[name] = getattr(words, name)
    environment.filters |= {"filesize": words.size, "words": words.title}
    environment.globals |= {
        "light": palette.variables("light"),
        "dark": palette.variables("dark"),
        "value": words.value,
        "delta": words.change,
        "span": words.interval,
    }
    return environment


def _lead(summary: Summary) -> list[str]:
    """Returns the verdict: two runs against each other in one sentence, any other number one sentence a run."""
    if len(summary.runs) == 2:
        return [verdict.pair_verdict(summary.pairs[0], summary.confidence)]
    return [verdict.run_verdict(summary, run) for run in summary.runs]


def _tradeoff_picture(summary: Summary) -> Picture:
    said = tradeoff.describe_tradeoff(summary)
    return Picture(svg.inline(tradeoff.draw_tradeoff(summary), "tradeoff", said), said)


def _bars_picture(summary: Summary, metric: str) -> Picture:
    said = bars.describe_bars(summary, metric)
    return Picture(svg.inline(bars.draw_bars(summary, metric), f"bars-{metric}", said), said)


def _curve_picture(curve: training.Curve) -> Picture:
    said = curves.describe_curves(curve.series)
    figure = curves.draw_curves(curve.series, curve.title, curve.unit, top=curve.top, sources=curve.sources)
    return Picture(svg.inline(figure, curve.name, f"{curve.title}, in {curve.unit}. {said}"), said)
