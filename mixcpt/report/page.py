"""Page of one or more runs: one self-contained HTML file without network access or scripts."""

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import jinja2
from markupsafe import Markup

from mixcpt.config.writing import to_yaml
from mixcpt.errors import ArtifactError
from mixcpt.evaluate.statistics.ledger import MEANINGS, STATES
from mixcpt.records.run import RunResult
from mixcpt.report import table, verdict, words
from mixcpt.report.ancestry import ancestry_tree
from mixcpt.report.figures import bars, curves, palette, svg, tradeoff
from mixcpt.report.sections import ingredients, provenance, training
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
_FILTERS = (
    "chance", "change", "count", "duration", "interval", "level", "listing", "magnitude", "percent", "score",
    "shortened",
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """An inline figure with its caption, which is also its text alternative."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Settings:
    """Settings of one run as a file that repeats it."""

    run: str
    file_name: str
    yaml: str

    @property
    def link(self) -> str:
        return "data:application/yaml;base64," + base64.b64encode(self.yaml.encode()).decode()


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
    return write_page(render([located(run, store) for run in runs], store, summary), output)


def write_page(page: str, output: Path) -> Path:
    """Write a page to `output` atomically and return `output`.

    Raises:
        ArtifactError: If the page cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".report-") as folder:
            draft = Path(folder) / "page.html"
            draft.write_bytes(page.encode("utf-8", "replace"))
            draft.replace(output)
    except OSError as error:
        problem = f"cannot write the report to {output}: {error.strerror or error}"
        raise ArtifactError(problem, "give the path of another file") from error
    return output


def shows(output: Path, runs: Sequence[RunResult]) -> bool:
    """Return whether a file is the page of exactly these runs, written by this version of mixcpt."""
    try:
        with output.open(encoding="utf-8", errors="replace") as page:
            return f'content="{_identity(runs)}"' in page.read(_HEAD_CHARACTERS)
    except OSError:
        return False


def _identity(runs: Sequence[RunResult]) -> str:
    return fingerprint({"runs": [run.to_json() for run in runs], "version": version("mixcpt")})


def render(runs: Sequence[RunResult], store: ArtifactStore, summary: Summary | None = None) -> str:
    """Return the page as HTML; the same runs in the same store give the same page."""
    summary = summary or summarise(runs)
    catalogue = Catalogue(store)
    evaluate = runs[0].config.evaluate
    trainings = training.trainings(runs)
    all_curves = chain.from_iterable(view.curves for view in trainings)
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
        trainings=trainings,
        curves={curve.name: _curve_picture(curve) for curve in all_curves},
        diagnostics=training.DIAGNOSTICS,
        ancestries={run.name: ancestry_tree(catalogue, run.refs[run.final]) for run in runs},
        links=provenance.links(runs),
        tracked={run.name: provenance.tracked(run) for run in runs},
        differences=provenance.differences(runs),
        settings=[Settings(run.name, f"{run.name}.yaml", to_yaml(run.config, comments=False)) for run in runs],
        libraries=provenance.libraries(),
    )  # fmt: skip


def environment() -> jinja2.Environment:
    """Return the template environment of pages: it escapes all text and rejects undefined names."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: words.printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in _FILTERS:
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
    """Return the sentences below the title: one for a pair of runs, otherwise one per run."""
    if len(summary.runs) == 2:
        return [verdict.pair_verdict(summary.pairs[0], summary.confidence)]
    return [verdict.run_verdict(summary, run) for run in summary.runs]


def _tradeoff_picture(summary: Summary) -> Picture:
    caption = tradeoff.describe_tradeoff(summary)
    return Picture(svg.inline(tradeoff.draw_tradeoff(summary), "tradeoff", caption), caption)


def _bars_picture(summary: Summary, metric: str) -> Picture:
    caption = bars.describe_bars(summary, metric)
    return Picture(svg.inline(bars.draw_bars(summary, metric), f"bars-{metric}", caption), caption)


def _curve_picture(curve: training.Curve) -> Picture:
    caption = curves.describe_curves(curve.series)
    figure = curves.draw_curves(curve.series, curve.title, curve.unit, top=curve.top, sources=curve.sources)
    return Picture(svg.inline(figure, curve.name, f"{curve.title}, in {curve.unit}. {caption}"), caption)
