"""Model cards made from records: metadata for the hub, training data, results and cost of a model."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from mixcpt.config import CurationConfig, HuggingFaceSource
from mixcpt.curation.corpus_report import CorpusReport
from mixcpt.mixture.account import MixtureAccount
from mixcpt.records.run import RunResult, load_run
from mixcpt.report import table, verdict, words
from mixcpt.report.html import template_environment
from mixcpt.report.sections.provenance import libraries
from mixcpt.report.summary import ModelSummary, Summary, summarise
from mixcpt.report.view import located, read_json
from mixcpt.stages.registry import trained_roles
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.train.metrics import TrainingMetrics

_MAX_CHARACTERS = 2000
_HEADER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_HUB_FOLDER = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)")
_LIBRARIES = ("mixcpt", "torch", "transformers", "trl")
_LICENSE = """\
# license: choose one (an SPDX id in lower case, such as apache-2.0). The licences of the base model and of the
#   documents decide which licences are possible; none was chosen here.
"""


def card_of(model: ModelRef, store: ArtifactStore) -> str:
    """Return the card of a model: from its run, its merge or its own README.md, otherwise a minimal card."""
    record = model.directory.parent / "record.json"
    if model.directory.name != "model" or not record.is_file():
        return foreign_card(model)
    artifact = json.loads(record.read_text())
    if "models" in artifact["lineage"]:
        ref = ArtifactRef(artifact["kind"], artifact["fingerprint"], artifact["digest"], str(record.parent))
        return merge_card(ref, str(artifact["lineage"].get("name", "")))
    if match := _find_run(store, artifact["fingerprint"]):
        run, role = match
        return model_card(run, store, role)
    return foreign_card(model)


def _find_run(store: ArtifactStore, fingerprint: str) -> tuple[RunResult, str] | None:
    """Return the newest run with this model and the role of the model, preferring runs that end with it."""
    runs = [load_run(ref) for ref in reversed(store.list("run"))]
    pairs = [(run, role) for run, role in product(runs, trained_roles()) if role in run.refs]
    matches = [(run, role) for run, role in pairs if run.refs[role].fingerprint == fingerprint]
    return min(matches, key=lambda pair: pair[0].final != pair[1], default=None)


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
    return _render(
        "card.md.j2",
        header=_run_header(run, role),
        run=run,
        role=role,
        run_summary=run_summary,
        summary=summary,
        measured=measured,
        form=measured.form if measured else "plain" if role == "pretrained" else "chat",
        num_parameters=TrainingMetrics.of(run.refs[role]).num_parameters,
        sentence=verdict.run_verdict(summary, run_summary) if measured is run_summary.final else "",
        lost=_lost(measured),
        ingredients=_ingredients(run),
        samples=_samples(run),
        costs=[*run_summary.stages, run_summary.cost],
        libraries=[f"{name} {version}" for name, version in libraries().items() if name in _LIBRARIES],
    )


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
    return _render(
        "merge_card.md.j2",
        header=header(details, tags=["merge", record["metrics"]["method"]], bases=bases, datasets=[]),
        name=name or record["lineage"].get("name") or merged.short,
        models=models,
        metrics=record["metrics"],
        settings=record["settings"]["config"],
        form=_form(merged.file("model")),
    )


def foreign_card(model: ModelRef) -> str:
    """Return the README.md of a model without a record, or a minimal card if it has none."""
    own = model.directory / "README.md"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    bases = [name] if (name := hub_id(model)) else []
    metadata = header({"model": model.digest}, tags=[], bases=bases, datasets=[])
    return _render("foreign_card.md.j2", header=metadata, name=model.name, form=_form(model.directory))


def shortened(card: str, limit: int) -> str:
    """Return a card without its header, cut after a whole section to at most `limit` characters."""
    body = _HEADER.sub("", card).strip()
    while len(body) > limit and "\n## " in body:
        body = body[: body.rindex("\n## ")].rstrip()
    return body[:limit]


def header(details: Mapping[str, Any], *, tags: Sequence[str], bases: Sequence[str], datasets: Sequence[str]) -> str:
    """Return the front matter of a card including its `---` lines.

    Args:
        details: Names, counts and digests for the key `mixcpt`.
        tags: Search tags in addition to `mixcpt`.
        bases: Hub ids of the models it was made of; the hub rejects other names.
        datasets: Hub ids of the data sets of its training.
    """
    relation = {"base_model": list(bases), "base_model_relation": "merge" if "merge" in tags else "finetune"}
    fields = {
        **(relation if bases else {}),
        **({"datasets": list(datasets)} if datasets else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["mixcpt", *tags],
        "mixcpt": dict(details),
    }
    return f"---\n{_LICENSE}{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=120)}---\n"


def hub_id(model: ModelRef) -> str:
    """Return the hub id of a model from the hub's cache; empty for any other folder."""
    matches = (_HUB_FOLDER.fullmatch(part) for part in Path(model.path).parts)
    return next((f"{match['owner']}/{match['name']}" for match in matches if match), "")


def hub_datasets(curation: CurationConfig) -> list[str]:
    """Return the hub ids of the data sets among the sources, without local paths."""
    paths = [source.path for source in curation.sources if isinstance(source, HuggingFaceSource)]
    return [path for path in paths if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) and not Path(path).exists()]


def _run_header(run: RunResult, role: str) -> str:
    datasets = []
    for name, source in CorpusReport.of(run.refs["corpus"]).sources.items():
        files = [{"name": file.name, "sha256": file.sha256} for file in source.files]
        datasets.append({"name": name, "pool": source.pool, "records": source.kept, "files": files})
    details = {
        "run": run.name,
        "model": run.refs[role].digest,
        "base": {"name": run.base.name, "digest": run.base.digest},
        "corpus": run.refs["corpus"].digest,
        "datasets": datasets,
    }
    bases = [name] if (name := hub_id(run.base)) else []
    tags = ["continual-pretraining", run.config.pretrain.method.kind]
    return header(details, tags=tags, bases=bases, datasets=hub_datasets(run.config.curation))


def _form(folder: Path) -> str:
    """Return the prompt form of a model folder: `chat` if it has a chat template, otherwise `plain`."""
    settings = folder / "tokenizer_config.json"
    has_entry = settings.is_file() and '"chat_template"' in settings.read_text(encoding="utf-8")
    return "chat" if has_entry or (folder / "chat_template.jinja").is_file() else "plain"


def _lost(measured: ModelSummary | None) -> list[str]:
    """Return the tasks on which the model is significantly worse than its base, with the changes."""
    values = measured.tasks.values() if measured else []
    worse = [value for value in values if value.change and verdict.direction(value.change) is verdict.Direction.WORSE]
    return [f"{words.title(value.task)} ({verdict.change_cell(value.change)})" for value in worse]


def _ingredients(run: RunResult) -> list[dict[str, Any]]:
    """Return the table of sources: records, tokens of pre-training with repetitions, and digests of the files."""
    trained = MixtureAccount.of(run.refs["mixture"]).sources if "mixture" in run.refs else ()
    rows = []
    for name, source in CorpusReport.of(run.refs["corpus"]).sources.items():
        parts = [part for part in trained if part.name == name]
        row = {"name": name, "pool": source.pool, "num_read": source.read, "num_kept": source.kept}
        row |= {"tokens": sum(part.tokens for part in parts), "passes": sum(part.passes for part in parts)}
        rows.append(row | {"files": [f"{file.name} {file.sha256[:12]}" for file in source.files]})
    return rows


def _samples(run: RunResult) -> list[str]:
    """Return the number of alignment samples per pool, e.g. `200 instructions`."""
    pools = read_json(run.refs["selection"], "report.json")["pools"] if "selection" in run.refs else {}
    return [f"{words.count(pool['selected'])} {name}" for name, pool in pools.items() if pool["selected"]]


class _AsIs(str):
    """Text that is already Markdown."""


def _render(template: str, **values: Any) -> str:
    """Return a card; all values are escaped unless the filter `as_is` marks them."""
    environment = template_environment(finalize=_escaped, keep_trailing_newline=True)
    environment.filters["as_is"] = _AsIs
    functions = {"change": verdict.change_cell, "legend": table.legend, "verdict": verdict}
    return environment.get_template(template).render(**functions, **values)


def _escaped(text: Any) -> str:
    return text if isinstance(text, _AsIs) else words.markdown(text, _MAX_CHARACTERS)
