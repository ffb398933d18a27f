"""`mixcpt runs`: list the runs of a store with their headline figures."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text
from typer import Option

from mixcpt.cli.console import Store, explain_errors, out, print_line, print_note
from mixcpt.config import AdaptConfig
from mixcpt.errors import MixcptError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Headline score of a run."""

    task: str
    metric: str
    base: float | None
    final: float | None

    def __str__(self) -> str:
        from mixcpt.report import words

        return f"{words.value(self.metric, self.base)} → {words.value(self.metric, self.final)}"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run of a store."""

    name: str
    when: str
    """Time of the end, or of the start if the run is unfinished; UTC."""
    state: Literal["finished", "unfinished", "damaged"]
    base: str = ""
    method: str = ""
    fingerprint: str = ""
    domain: Figure | None = None
    general: Figure | None = None


@explain_errors
def runs(
    store: Store = ".mixcpt",
    as_json: Annotated[bool, Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List the runs of a store, oldest first: base, method and headline figures of base and final model.

    A run that was started but has no result yet is listed as unfinished; run its file again to continue it.

    ```
    mixcpt runs --store .mixcpt
    ```
    """
    entries = list_runs(ArtifactStore(store))
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=2, ensure_ascii=False))
    elif not entries:
        print_note(f"{store} has no runs yet; `mixcpt run my.yaml` adds one")
    else:
        out.print(_table(entries))
        finished = [entry.name for entry in entries if entry.state == "finished"]
        if finished:
            print_line(f"next: mixcpt report {finished[-1]} --store {store}")


def list_runs(store: ArtifactStore) -> list[Entry]:
    """Return the finished and the unfinished runs of a store, oldest first."""
    refs = store.list("run")
    known = [ref.record["settings"] for ref in refs]
    entries = [*map(_finished, refs), *_unfinished(store.root / "requests", known)]
    return sorted(entries, key=lambda entry: entry.when)


def _finished(ref: ArtifactRef) -> Entry:
    from mixcpt.evaluate.summary import EvaluationSummary
    from mixcpt.records.run import load_run, recorded_name

    when, short = str(ref.record["created_at"])[:16], ref.short
    try:
        run = load_run(ref)
        root = ref.directory.parents[1]  # the store may have moved
        here = {role: _moved(evaluation, root) for role, evaluation in run.evaluations.items()}
        base, final = (EvaluationSummary.of(here[role]).by_task for role in ("base", "final"))
    except (MixcptError, ValidationError, OSError, KeyError, ValueError):
        return Entry(name=recorded_name(ref), when=when, state="damaged", fingerprint=short)
    figures = {}
    headlines = {"domain": run.config.evaluate.headline_domain, "general": run.config.evaluate.headline_general}
    for role, task in headlines.items():
        if task in base and task in final:
            metric = base[task].metric
            figures[role] = Figure(task=task, metric=metric, base=base[task].value, final=final[task].value)
    return Entry(
        name=run.name,
        when=when,
        state="finished",
        base=run.base.name,
        method=run.config.pretrain.method.kind,
        fingerprint=short,
        domain=figures.get("domain"),
        general=figures.get("general"),
    )


def _moved(ref: ArtifactRef, root: Path) -> ArtifactRef:
    folder = root / ref.kind / ref.short
    return ArtifactRef(ref.kind, ref.fingerprint, ref.digest, str(folder))


def _unfinished(requests: Path, known: list[object]) -> Iterator[Entry]:
    """Yield the requested runs whose settings no finished run has."""
    from mixcpt.records.run import deciding_settings
    from mixcpt.store.fingerprint import canonical_json

    for path in sorted(requests.glob("*.json")):
        with suppress(ValidationError, OSError, ValueError):  # a comparison, a search or a round
            config = AdaptConfig.model_validate_json(path.read_text())
            if json.loads(canonical_json(deciding_settings(config))) in known:
                continue
            started = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            yield Entry(
                name=config.name,
                when=started.isoformat()[:16],
                state="unfinished",
                base=Path(config.base.model).name,
                method=config.pretrain.method.kind,
            )


def _table(entries: list[Entry]) -> Table:
    table = Table()
    for heading in ("run", "when (UTC)", "base", "method", "domain", "general", "state"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        figures = (str(figure) if figure else "–" for figure in (entry.domain, entry.general))
        cells = (entry.name, entry.when.replace("T", " "), entry.base, entry.method, *figures, entry.state)
        table.add_row(*map(Text, cells))
    return table
