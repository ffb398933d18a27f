"""Rows of MLflow's table of runs: the base and every adapted model with the same metrics, so that they can be compared.

The row of a final model is the run of its adaptation. The row of the base belongs to the base's evaluation, so that all
adaptations with an equal evaluation of the base share it.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from pathlib import PurePath
from urllib.parse import quote

from mixcpt.config import AdaptConfig, Source
from mixcpt.curation.corpus_report import CorpusReport
from mixcpt.records.run import RunResult
from mixcpt.report import words
from mixcpt.report.sections.provenance import Cost, total
from mixcpt.report.summary import ModelSummary, RunSummary, Summary
from mixcpt.report.verdict import run_verdict
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.fingerprint import fingerprint
from mixcpt.store.models import ModelRef
from tasks.stage_runs import log_data_of_run, opening
from tasks.tracking import NOTE, PARENT, Tracking

ROW_KEY = "mixcpt.row_key"
BASE_ROW = "mixcpt.base_row"
"""Tag of an adaptation with the run id of the row of its base."""
METRICS_TABLE = "metrics.json"
"""Table of a row; MLflow's comparison fails at its section of files if one of the runs has no file."""
_MAX_TASKS = 8
"""Maximum number of tasks in a row; the table of metrics has all."""
_MAX_COMPARED = 20
_MAX_TAG = 500
_GIBIBYTE = 2**30


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One metric of the base and of an adapted model."""

    name: str
    base: float
    value: float

    @property
    def is_known(self) -> bool:
        return math.isfinite(self.base) and math.isfinite(self.value)


def row_figures(summary: Summary, run: RunSummary, model: ModelSummary) -> list[Figure]:
    """Return the metrics of a row, about twenty, for the base and a model of a run."""
    figures = [*_headlines(summary, model), *_tasks(summary, model), *_costs(run, model)]
    return [figure for figure in figures if figure.is_known]


def _headlines(summary: Summary, model: ModelSummary) -> Iterator[Figure]:
    """Yield the headline results, their changes with intervals, and the retention and drift of general skills."""
    for group, task in {"domain": summary.headline_domain, "general": summary.headline_general}.items():
        if not task:
            continue
        yield Figure(name=group, base=summary.base.tasks[task].value, value=model.tasks[task].value)
        if change := model.tasks[task].change:
            yield Figure(name=f"{group}_change", base=0.0, value=change.delta)
            yield Figure(name=f"{group}_change_low", base=0.0, value=change.low)
            yield Figure(name=f"{group}_change_high", base=0.0, value=change.high)
    if model.retention:
        yield Figure(name="general_retained", base=1.0, value=model.retention.general_retained)
    if model.drift:
        yield Figure(name="drift", base=0.0, value=_drift(model, summary.headline_general))


def _drift(model: ModelSummary, headline: str) -> float:
    """Return the drift on the general headline task, else the mean over the general tasks, else over all tasks."""
    if headline in model.drift:
        return model.drift[headline].nats
    drifts = list(model.drift.values())
    general = [drift.nats for drift in drifts if drift.group == "general"]
    chosen = general or [drift.nats for drift in drifts]
    return sum(chosen) / len(chosen)


def _tasks(summary: Summary, model: ModelSummary) -> Iterator[Figure]:
    """Yield the results on the first tasks, headline tasks first, and the bits per byte of their correct answers."""
    names = list(dict.fromkeys([*summary.headlines, *model.tasks]))
    for name in names[:_MAX_TASKS]:
        value = model.tasks[name]
        yield Figure(name=f"eval/{name}/{value.metric}", base=summary.base.tasks[name].value, value=value.value)
    for name in summary.headlines:
        if gold := model.gold.get(name):
            yield Figure(name=f"eval/{name}/{gold.metric}", base=gold.base, value=gold.value)


def _costs(run: RunSummary, model: ModelSummary) -> Iterator[Figure]:
    """Yield the cost of the trainings up to a model, which is 0 for the base, and the time of all stages."""
    stages = _stages_until(run, model)
    training = total(stage for stage in stages if stage.tokens)
    evaluation = next((stage.seconds for stage in run.stages if stage.stage == "evaluation of base"), math.nan)
    yield Figure(name="seconds", base=evaluation, value=total(stages).seconds)
    yield Figure(name="training/seconds", base=0.0, value=training.seconds)
    yield Figure(name="training/tokens", base=0.0, value=float(training.tokens or 0))
    yield Figure(name="training/flops", base=0.0, value=float(training.flops or 0))
    if training.peak_memory_bytes:
        yield Figure(name="training/peak_memory_gib", base=0.0, value=training.peak_memory_bytes / _GIBIBYTE)


def _stages_until(run: RunSummary, model: ModelSummary) -> list[Cost]:
    """Return the stages that produced a model, with its evaluation; all stages of the run for the final model."""
    if model.role == "final":
        return list(run.stages)
    earlier = list(takewhile(lambda stage: stage.stage != model.role, run.stages))
    return earlier + [stage for stage in run.stages if stage.stage in (model.role, f"evaluation of {model.role}")]


def start_tags(config: AdaptConfig, base: ModelRef) -> dict[str, str]:
    """Return the readable tags of an adaptation that are known before it starts."""
    return {"model": _tag(base.name), "method": config.pretrain.method.kind}


def end_tags(result: RunResult, summary: Summary) -> dict[str, str]:
    """Return the readable tags of a finished adaptation."""
    return {
        **start_tags(result.config, result.base),
        "domain documents": domain_documents(result.config, result.refs["corpus"]),
        "verdict": _tag(run_verdict(summary, summary.runs[0])),
        **_headline_tags(summary),
    }


def _headline_tags(summary: Summary) -> dict[str, str]:
    """Return the tags that say which tasks the metrics `domain` and `general` are about."""
    tasks = {"domain": summary.headline_domain, "general": summary.headline_general}
    metrics = {task: words.title(summary.base.tasks[task].metric) for task in summary.headlines}
    return {f"{name} task": _tag(f"{task} ({metrics[task]})") for name, task in tasks.items() if task}


def domain_documents(config: AdaptConfig, corpus: ArtifactRef) -> str:
    """Return the number of domain documents in training and held out, and their places: `30 of docs/`."""
    counts = CorpusReport.of(corpus).pools["domain"]
    sources = [source for source in config.curation.sources if source.pool == "domain"]
    places = list(dict.fromkeys(chain.from_iterable(map(_places, sources))))
    heldout = f", {counts.heldout:,} more held out" if counts.heldout else ""
    where = f" of {', '.join(places)}" if places else ""
    return _tag(f"{counts.records:,}{where}{heldout}")


def _places(source: Source) -> list[str]:
    if source.kind == "files":
        return [_place(PurePath(path)) for path in source.paths]
    return [source.path] if source.kind == "huggingface" else ["the closed world"]


def _place(path: PurePath) -> str:
    """Return the last part of the path of a file or folder; the last two of a pattern."""
    if "*" in path.name:
        return str(PurePath(path.parent.name, path.name))
    return path.name if path.suffix else f"{path.name}/"


def _tag(text: str) -> str:
    return words.shortened(text, _MAX_TAG)


def record_rows(tracking: Tracking, run_id: str, result: RunResult, summary: Summary) -> list[str]:
    """Log the rows of the base and of all models of an adaptation, and return the runs to compare, the base first."""
    run = summary.runs[0]
    final = row_figures(summary, run, run.final)
    base_id = _record_base(tracking, result, summary, figures=final)
    tracking.log_figures(run_id, {figure.name: figure.value for figure in final})
    if run.pretrained:
        _record_pretrained(tracking, run_id, result, summary=summary)
    compared = _adaptations_of(tracking, base_id, first=run_id)
    tracking.tag(run_id, {**end_tags(result, summary), BASE_ROW: base_id})
    return [base_id, *compared]


def _record_base(tracking: Tracking, result: RunResult, summary: Summary, *, figures: Sequence[Figure]) -> str:
    """Return the run with the row of the base; create it if there is none."""
    evaluation = result.evaluations["base"]
    content = {"evaluation": evaluation.fingerprint, "headlines": summary.headlines}
    tags = {"model": _tag(result.base.name), "method": "none (base model)", **_headline_tags(summary)}
    tags[NOTE] = f"{words.markdown(result.base.name)} before any training, to compare its adaptations with."
    metrics = {figure.name: figure.base for figure in figures}
    name = f"base: {_tag(result.base.name)}"
    return _record_row(tracking, content, name, metrics=metrics, tags=tags, evaluation=evaluation)


def _record_pretrained(tracking: Tracking, run_id: str, result: RunResult, *, summary: Summary) -> None:
    """Log the row of the model between pre-training and alignment, below the run of the adaptation."""
    (run,) = summary.runs
    assert run.pretrained is not None
    evaluation = result.evaluations["pretrained"]
    content = {"evaluation": evaluation.fingerprint, "headlines": summary.headlines, "run": run_id}
    metrics = {figure.name: figure.value for figure in row_figures(summary, run, run.pretrained)}
    tags = {**start_tags(result.config, result.base), **_headline_tags(summary), PARENT: run_id}
    name = f"{result.name} before alignment"
    _record_row(tracking, content, name, metrics=metrics, tags=tags, evaluation=evaluation)


def _record_row(
    tracking: Tracking,
    content: Mapping[str, object],
    name: str,
    *,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    evaluation: ArtifactRef,
) -> str:
    """Return the run of a row with this content; create it if there is none."""
    key = fingerprint(content)
    with opening:
        if not (run_id := tracking.finished_run(ROW_KEY, key)):
            run_id = tracking.open(ROW_KEY, key, name, parent="", tags=tags, params={}).run_id
            log_data_of_run(tracking, run_id, [], evaluations=[evaluation])
            tracking.close(run_id, "FINISHED")
        tracking.log_table_once(run_id, metrics, METRICS_TABLE)
        tracking.log_figures(run_id, metrics)  # a later adaptation may have metrics that an earlier one had not
        return run_id


def _adaptations_of(tracking: Tracking, base_id: str, *, first: str) -> list[str]:
    """Return the runs of the adaptations with this row of the base, `first` first, without parts of comparisons."""
    runs = tracking.find(f"tags.`{BASE_ROW}` = '{base_id}'", _MAX_COMPARED)
    others = [str(run.info.run_id) for run in runs if PARENT not in run.data.tags]
    return list(dict.fromkeys([first, *others]))


def compare_path(tracking: Tracking, run_ids: Sequence[str]) -> str:
    """Return the address of the comparison of runs, relative to MLflow's own address."""
    runs, experiments = (quote(json.dumps(ids)) for ids in (list(run_ids), [tracking.experiment_id]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}&workflowType=machine_learning"


def description(tags: Mapping[str, str], compare: str, prefect: str) -> str:
    """Return the description of a finished adaptation in Markdown, with links to its comparison and its flow run."""
    lines = [f"**{words.markdown(tags['verdict'])}**", ""]  # the page of a run shows only the first lines at once
    lines += [f"[Compare with the base and its other adaptations]({compare})", ""]
    lines += [f"* {name}: {words.markdown(tags[name])}" for name in tags if name != "verdict"]
    lines += ["", f"[Prefect flow run]({prefect})"] if prefect else []
    return "\n".join(lines)
