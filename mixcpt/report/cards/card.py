"""Model cards, written from what was recorded: which data made a model, what it learned, forgot and cost."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from mixcpt.curation.corpus_report import CorpusReport
from mixcpt.mixture.account import MixtureAccount
from mixcpt.records.run import RunResult
from mixcpt.report import table, verdict, words
from mixcpt.report.cards.header import dataset_details, header, hub_datasets, hub_id
from mixcpt.report.sections.promise import promise_verdict
from mixcpt.report.sections.provenance import libraries
from mixcpt.report.summary import ModelSummary, RunSummary, Summary, summarise
from mixcpt.report.view import located, read_json
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.train.metrics import TrainingMetrics

_MAX_CHARACTERS = 2000
_HEADER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_LIBRARIES = ("mixcpt", "torch", "transformers", "trl")


@dataclass(frozen=True)
class Ingredient:
    """One source of the training text."""

    name: str
    pool: str
    num_read: int
    num_kept: int
    tokens: int
    """Trained on in pre-training, repetitions counted."""
    passes: float
    files: Sequence[str]
    """Name and beginning of the SHA-256 of each file."""


def model_card(result: RunResult, store: ArtifactStore, role: str = "", summary: Summary | None = None) -> str:
    """Returns the card of a run's final model, or of another of its models: `pretrained`, `sft`, `dpo`.

    Args:
        result: The run.
        store: Where its artifacts are.
        role: Of the model; empty for the final one.
        summary: Of this run, where it is known already; its intervals take a second.

    Raises:
        ArtifactError: If an artifact of the run is no longer in the store.
    """
    run = located(result, store)
    role = role or run.final
    summary = summary or summarise([run])
    (told,) = summary.runs
    measured = told.final if role == run.final else told.pretrained if role == "pretrained" else None
    return _environment().get_template("card.md.j2").render(
        header=_run_header(run, role),
        run=run,
        role=role,
        told=told,
        summary=summary,
        measured=measured,
        form=measured.form if measured else "chat" if role in ("sft", "dpo") else "plain",
        num_parameters=TrainingMetrics.of(run.refs[role]).num_parameters,
        sentence=_sentence(summary, told, measured),
        lost=_lost(measured),
        ingredients=_ingredients(run),
        samples=_samples(run),
        costs=[*told.stages, told.cost],
        libraries=[f"{name} {version}" for name, version in libraries().items() if name in _LIBRARIES],
    )  # fmt: skip


def merge_card(merged: ArtifactRef, name: str) -> str:
    """Returns the card of a model that was put together from others; what those are is told by their own cards."""
    record = merged.record
    models = {role: ModelRef.from_json(model) for role, model in record["lineage"]["models"].items()}
    details = {
        "merge": record["settings"]["config"],
        "models": {role: {"name": model.name, "digest": model.digest} for role, model in models.items()},
        "model": merged.digest,
    }
    bases = [found for model in models.values() if (found := hub_id(model))]
    return _environment().get_template("merge_card.md.j2").render(
        header=header(details, tags=["merge", record["metrics"]["method"]], bases=bases, datasets=[]),
        name=name or record["lineage"].get("name") or merged.short,
        models=models,
        metrics=record["metrics"],
        settings=record["settings"]["config"],
        form="chat" if has_chat_template(merged.file("model")) else "plain",
    )  # fmt: skip


def foreign_card(model: ModelRef) -> str:
    """Returns the card that lies beside a model from elsewhere, or one that says what little is known of it."""
    own = model.directory / "README.md"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    bases = [found] if (found := hub_id(model)) else []
    form = "chat" if has_chat_template(model.directory) else "plain"
    details = {"model": model.digest}
    return _environment().get_template("foreign_card.md.j2").render(
        header=header(details, tags=[], bases=bases, datasets=[]), name=model.name, form=form
    )  # fmt: skip


def has_chat_template(folder: Path) -> bool:
    """Returns whether a model folder has a chat form, in either of the places where it may lie."""
    settings = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or (
        settings.is_file() and '"chat_template"' in settings.read_text(encoding="utf-8")
    )


def shortened(card: str, limit: int) -> str:
    """Returns a card without its header, as many whole sections of it as `limit` characters hold."""
    body = _HEADER.sub("", card).strip()
    while len(body) > limit and "\n## " in body:
        body = body[: body.rindex("\n## ")].rstrip()
    return body[:limit]


def _run_header(run: RunResult, role: str) -> str:
    details = {
        "run": run.name,
        "model": run.refs[role].digest,
        "base": {"name": run.base.name, "digest": run.base.digest},
        "corpus": run.refs["corpus"].digest,
        "datasets": dataset_details(run.refs["corpus"]),
    }
    bases = [found] if (found := hub_id(run.base)) else []
    tags = ["continual-pretraining", run.config.pretrain.method.kind]
    return header(details, tags=tags, bases=bases, datasets=hub_datasets(run.config.curation))


def _sentence(summary: Summary, run: RunSummary, measured: ModelSummary | None) -> str:
    """Returns the verdict on the run's final model; empty for any other."""
    return verdict.run_verdict(summary, run) if measured is run.final else ""


def _lost(measured: ModelSummary | None) -> list[str]:
    """Returns the tasks at which the model is surely worse than its base, each with its change."""
    values = measured.tasks.values() if measured else []
    worse = [value for value in values if value.change and verdict.direction(value.change) is verdict.Direction.WORSE]
    return [f"{words.title(value.task)} ({table.change_cell(value)})" for value in worse]


def _ingredients(run: RunResult) -> list[Ingredient]:
    sources = CorpusReport.of(run.refs["corpus"]).sources
    trained = MixtureAccount.of(run.refs["mixture"]).sources if "mixture" in run.refs else ()
    return [
        Ingredient(
            name,
            source.pool,
            source.read,
            source.kept,
            sum(row.tokens for row in trained if row.name == name),
            sum(row.passes for row in trained if row.name == name),
            [f"{file.name} {file.sha256[:12]}" for file in source.files],
        )
        for name, source in sources.items()
    ]


def _samples(run: RunResult) -> list[str]:
    """Returns how many samples of each pool taught the chat form, e.g. `200 instructions`."""
    pools = read_json(run.refs["selection"], "report.json")["pools"] if "selection" in run.refs else {}
    return [f"{words.count(pool['selected'])} {name}" for name, pool in pools.items() if pool["selected"]]


def _environment() -> jinja2.Environment:
    """Returns what cards are rendered with: every value is text and no markup, except through the filter `as_is`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates"),
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in ("count", "duration", "level", "listing", "magnitude"):
        environment.filters[name] = getattr(words, name)
    environment.filters |= {"filesize": words.size, "words": words.title, "as_is": _AsIs}
    environment.globals |= {
        "value": words.value,
        "change": table.change_cell,
        "legend": table.legend,
        "promise_verdict": promise_verdict,
    }
    return environment


class _AsIs(str):
    """Text that is Markdown already."""


def _shown(text: Any) -> str:
    return text if isinstance(text, _AsIs) else words.markdown(text, _MAX_CHARACTERS)
