"""Model cards made from records: training data, results and cost of a model."""

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


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """One source of the training text."""

    name: str
    pool: str
    num_read: int
    num_kept: int
    tokens: int
    """Tokens of pre-training including repetitions."""
    passes: float
    files: Sequence[str]
    """Name and first 12 digits of the SHA-256, by file."""


def model_card(result: RunResult, store: ArtifactStore, role: str = "", summary: Summary | None = None) -> str:
    """Return the card of a model of a run.

    Args:
        result: The run.
        store: Store with its artifacts.
        role: Role of the model (`pretrained`, `sft` or `dpo`); empty for the final model.
        summary: Summary of this run if it exists already; computing it takes about a second.

    Raises:
        ArtifactError: If an artifact of the run is no longer in the store.
    """
    run = located(result, store)
    role = role or run.final
    summary = summary or summarise([run])
    (run_summary,) = summary.runs
    measured = {"pretrained": run_summary.pretrained, run.final: run_summary.final}.get(role)
    return _environment().get_template("card.md.j2").render(
        header=_run_header(run, role),
        run=run,
        role=role,
        run_summary=run_summary,
        summary=summary,
        measured=measured,
        form=measured.form if measured else "plain" if role == "pretrained" else "chat",
        num_parameters=TrainingMetrics.of(run.refs[role]).num_parameters,
        sentence=_sentence(summary, run_summary, measured),
        lost=_lost(measured),
        ingredients=_ingredients(run),
        samples=_samples(run),
        costs=[*run_summary.stages, run_summary.cost],
        libraries=[f"{name} {version}" for name, version in libraries().items() if name in _LIBRARIES],
    )  # fmt: skip


def merge_card(merged: ArtifactRef, name: str) -> str:
    """Return the card of a merged model."""
    record = merged.record
    models = {role: ModelRef.from_json(model) for role, model in record["lineage"]["models"].items()}
    details = {
        "merge": record["settings"]["config"],
        "models": {role: {"name": model.name, "digest": model.digest} for role, model in models.items()},
        "model": merged.digest,
    }
    bases = [name_on_hub for model in models.values() if (name_on_hub := hub_id(model))]
    return _environment().get_template("merge_card.md.j2").render(
        header=header(details, tags=["merge", record["metrics"]["method"]], bases=bases, datasets=[]),
        name=name or record["lineage"].get("name") or merged.short,
        models=models,
        metrics=record["metrics"],
        settings=record["settings"]["config"],
        form="chat" if has_chat_template(merged.file("model")) else "plain",
    )  # fmt: skip


def foreign_card(model: ModelRef) -> str:
    """Return the README.md of a model without a record, or a minimal card if it has none."""
    own = model.directory / "README.md"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    bases = [name] if (name := hub_id(model)) else []
    form = "chat" if has_chat_template(model.directory) else "plain"
    details = {"model": model.digest}
    return _environment().get_template("foreign_card.md.j2").render(
        header=header(details, tags=[], bases=bases, datasets=[]), name=model.name, form=form
    )  # fmt: skip


def has_chat_template(folder: Path) -> bool:
    """Return whether a model folder has a chat template, in its own file or in the tokenizer settings."""
    settings = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or (
        settings.is_file() and '"chat_template"' in settings.read_text(encoding="utf-8")
    )


def shortened(card: str, limit: int) -> str:
    """Return a card without its header, cut after a whole section to at most `limit` characters."""
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
    bases = [name] if (name := hub_id(run.base)) else []
    tags = ["continual-pretraining", run.config.pretrain.method.kind]
    return header(details, tags=tags, bases=bases, datasets=hub_datasets(run.config.curation))


def _sentence(summary: Summary, run: RunSummary, measured: ModelSummary | None) -> str:
    """Return the verdict on the run's final model; empty for other models."""
    return verdict.run_verdict(summary, run) if measured is run.final else ""


def _lost(measured: ModelSummary | None) -> list[str]:
    """Return the tasks on which the model is significantly worse than its base, with the changes."""
    values = measured.tasks.values() if measured else []
    worse = [value for value in values if value.change and verdict.direction(value.change) is verdict.Direction.WORSE]
    return [f"{words.title(value.task)} ({table.change_cell(value)})" for value in worse]


def _ingredients(run: RunResult) -> list[Ingredient]:
    sources = CorpusReport.of(run.refs["corpus"]).sources
    trained = MixtureAccount.of(run.refs["mixture"]).sources if "mixture" in run.refs else ()
    return [
        Ingredient(
            name=name,
            pool=source.pool,
            num_read=source.read,
            num_kept=source.kept,
            tokens=sum(row.tokens for row in trained if row.name == name),
            passes=sum(row.passes for row in trained if row.name == name),
            files=[f"{file.name} {file.sha256[:12]}" for file in source.files],
        )
        for name, source in sources.items()
    ]


def _samples(run: RunResult) -> list[str]:
    """Return the number of alignment samples per pool, e.g. `200 instructions`."""
    pools = read_json(run.refs["selection"], "report.json")["pools"] if "selection" in run.refs else {}
    return [f"{words.count(pool['selected'])} {name}" for name, pool in pools.items() if pool["selected"]]


def _environment() -> jinja2.Environment:
    """Return the template environment of cards: it escapes all values unless the filter `as_is` marks them."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates"),
        undefined=jinja2.StrictUndefined,
        finalize=_escaped,
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
    """Text that is already Markdown."""


def _escaped(text: Any) -> str:
    return text if isinstance(text, _AsIs) else words.markdown(text, _MAX_CHARACTERS)
