"""Tasks of a round: find new corpora, evaluate base and champion, check the gates, and publish the outcome."""

import fcntl
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from mixcpt.config import Cause, ReadaptConfig
from mixcpt.errors import ConfigError
from mixcpt.records.round import Decision, Judgement, Round, load_rounds, refused_corpora, save_round
from mixcpt.records.run import RunResult
from mixcpt.report import words
from mixcpt.report.rounds import markdown_rounds, write_rounds
from mixcpt.report.table import markdown_rows
from mixcpt.report.verdict import NOT_MEASURED
from mixcpt.rounds.gates import GateEvaluations, judge
from mixcpt.rounds.planning import RoundPlan, plan_round, register_own
from mixcpt.stages.chain import by_role, evaluation_job
from mixcpt.stages.jobs import JobOptions
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, resolve_model
from tasks.adaptation import reopen_adaptation
from tasks.registry import Registry, Version
from tasks.stage_groups import run_stage_group, worth_retrying
from tasks.tracking import Tracking, forgiving


@dataclass(frozen=True)
class OpenRound:
    """A round in progress."""

    config: ReadaptConfig
    plan: RoundPlan
    champion: Version | None
    """Champion before the round; None before the first promotion."""
    base: ModelRef
    """Base model of the first round."""

    @property
    def registry(self) -> Registry:
        return Registry(self.config.adapt.runtime)


@contextmanager
def one_round_at_a_time(store: ArtifactStore) -> Iterator[None]:
    """Hold the lock of the store's rounds, after waiting for any other round; the kernel releases it after a crash."""
    folder = store.root / "work"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "round.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            get_run_logger().info("another round works on %s; waiting for its end", store.root)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def require_registered(cause: Cause, store: ArtifactStore) -> None:
    """Raise `ConfigError` if an event reports a corpus that is not in this worker's store."""
    if cause.fingerprint and store.find("registration", cause.fingerprint) is None:
        raise ConfigError(
            f"the corpus {cause.corpus} was registered in another store than {store.root}",
            "let `mixcpt corpus add --store` and adapt.runtime.store of this deployment name the same folder",
        )


@task(name="find new corpora", retry_condition_fn=worth_retrying, retries=2, retry_delay_seconds=30)
def open_round(config: ReadaptConfig) -> OpenRound | None:
    """Plan the next round and return it; None if the champion has learned every usable corpus."""
    store, registry = ArtifactStore(config.adapt.runtime.store), Registry(config.adapt.runtime)
    register_own(config.adapt, store)
    champion = registry.champion()
    rounds = load_rounds(store, config.name)
    rejected = [name for name in _rejected_corpora(rounds, registry) if name not in config.again]
    model, number = champion.model if champion else None, len(rounds) + 1
    plan = plan_round(config, model, refused=rejected, number=number, store=store)
    if plan is None:
        get_run_logger().info("nothing new: every registered corpus was learned or refused")
        return None
    get_run_logger().info("round %d learns %s", plan.number, ", ".join(plan.new))
    return OpenRound(config, plan, champion, base=resolve_model(config.adapt.base))


def _rejected_corpora(rounds: list[Round], registry: Registry) -> list[str]:
    """Return the corpora whose candidates were refused, declined or rolled back."""
    withdrawn = registry.withdrawn_digests()
    corpora = refused_corpora(rounds)
    for finished in rounds:
        if finished.run.refs[finished.run.final].digest in withdrawn:
            corpora += finished.new
    return corpora


@task(name="evaluate base and champion", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def evaluate_others(opened: OpenRound, run: RunResult) -> dict[str, ArtifactRef]:
    """Evaluate the base and the champion with the candidate's questions, and return all evaluations by role.

    The champion is evaluated in the prompt form of the candidate, because both were aligned alike; the base in plain
    form. Without a champion, its evaluation is the base's.
    """
    evaluate = run.config.evaluate.model_copy(update={"kl_to_base": False})
    config = run.config.model_copy(update={"evaluate": evaluate})
    adaptation = replace(reopen_adaptation(run, config.runtime), config=config)
    form: Literal["plain", "chat"] = "plain" if run.final == "pretrained" else evaluate.aligned_form
    corpus = run.refs["corpus"]
    jobs = [evaluation_job(adaptation, corpus, "base", model=opened.base)]
    if opened.champion:
        options = JobOptions(form=form)
        jobs.append(evaluation_job(adaptation, corpus, "champion", model=opened.champion.model, options=options))
    evaluations = by_role(run_stage_group(adaptation, jobs))
    return {"champion": evaluations["base"], **evaluations, "candidate": run.evaluations["final"]}


@task(name="check gates")
def check_gates(opened: OpenRound, run: RunResult, evaluations: Mapping[str, ArtifactRef]) -> list[Judgement]:
    """Check each gate on each of its tasks, publish the results as a table, and return them."""
    groups = {"new": opened.plan.new, "earlier": opened.plan.earlier, "general": ("",)}
    tasks = {group: opened.plan.tasks_about(corpora) for group, corpora in groups.items()}
    compared = GateEvaluations(evaluations["base"], evaluations["champion"], evaluations["candidate"])
    judgements = judge(opened.config.gates, compared, tasks, config=run.config.evaluate, seed=run.config.seed)
    create_table_artifact(gate_rows(judgements), key="gates", description=f"{run.name}: conditions for its promotion")
    return judgements


def gate_rows(judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Return one row per gate and task; a gain is positive if the candidate is better, whatever the metric.

    Numbers that were not measured are None, because JSON has no NaN.
    """
    rows = []
    for judgement in judgements:
        names = {name: getattr(judgement, name) for name in ("gate", "task", "against", "split", "passages")}
        figures = {name: _rounded(getattr(judgement, name)) for name in ("before", "after", "gain", "low", "high")}
        condition = f"{judgement.rule} >= {judgement.at_least:g}"
        rows.append({**names, **figures, "must": condition, "holds": _outcome(judgement)})
    return rows


def _rounded(number: float) -> float | None:
    return round(number, 4) if math.isfinite(number) else None


def _outcome(judgement: Judgement) -> str:
    if judgement.holds:
        return "yes"
    failed = "NO" if judgement.is_judged else "CANNOT JUDGE"
    return failed if judgement.severity == "block" else f"{failed.lower()} (warning)"


@dataclass(frozen=True)
class Verdict:
    """Decision about a candidate."""

    decision: Decision
    reason: str
    by: str = ""
    """Person who decided; empty if the gates decided."""


def verdict_of_gates(judgements: Sequence[Judgement]) -> Verdict:
    """Return the decision that follows from the gates.

    A blocking gate that cannot judge refuses the candidate like one that fails: a model whose forgetting is unknown is
    not promoted by itself.
    """
    if failures := [_failure(judgement) for judgement in judgements if judgement.blocks]:
        return Verdict("refused", f"{words.listing(failures)}.")
    warnings = [_failure(judgement) for judgement in judgements if not judgement.holds]
    if not judgements:
        return Verdict("promoted", "There is no gate to hold.")
    reason = f"All {len(judgements)} gates hold." if len(judgements) > 1 else f"The gate {judgements[0].gate} holds."
    if warnings:
        num_held = len(judgements) - len(warnings)
        reason = f"{num_held} of {len(judgements)} gates hold; only warnings: {words.listing(warnings)}."
    if unsure := [judgement for judgement in judgements if judgement.holds and not judgement.has_interval]:
        results = [f"{judgement.gate} on {words.title(judgement.task)} ({_few(judgement)})" for judgement in unsure]
        reason += f" Without an interval: {words.listing(results)}."
    return Verdict("promoted", reason)


def _failure(judgement: Judgement) -> str:
    if not judgement.is_judged:
        return f"{judgement.gate} cannot judge forgetting, because no task is general"
    change = f"{words.change(judgement.metric, judgement.gain)} {words.unit(judgement.metric)}"
    return f"{judgement.gate} fails on {words.title(judgement.task)} ({change}{_doubt(judgement)})"


def _doubt(judgement: Judgement) -> str:
    """Return the reason why a change shows nothing, after a comma; empty if it shows something."""
    if judgement.is_at_chance:
        return f", at chance, which is {words.value(judgement.metric, judgement.chance)}"
    if judgement.has_interval:
        return ""
    return f", of {_few(judgement)} for an interval"


def _few(judgement: Judgement) -> str:
    if not judgement.passages:
        return "too few items"
    return f"{words.number_of(judgement.passages, 'passage')}, too few"


def approval_request(opened: OpenRound, judgements: Sequence[Judgement]) -> str:
    """Return the description of a round for the person who decides about its candidate, as Markdown."""
    rows = gate_rows(judgements)
    cells = [["" if cell is None else str(cell) for cell in row.values()] for row in rows]
    table = markdown_rows([list(rows[0]), *cells]) if rows else ""
    learned = words.markdown(words.listing(opened.plan.new))
    warning = "" if opened.plan.tasks_about(("",)) else f"{NOT_MEASURED} "
    reason = words.markdown(verdict_of_gates(judgements).reason)
    return f"{warning}Round {opened.plan.number} learned {learned}. {reason} Promote its model to champion?\n\n{table}"


@task(name="publish round")
def publish_round(
    opened: OpenRound,
    run: RunResult,
    *,
    evaluations: Mapping[str, ArtifactRef],
    judgements: Sequence[Judgement],
    verdict: Verdict,
    version: Version,
) -> Round:
    """Publish the record of a round and the summary of all rounds, and return the round."""
    plan, store = opened.plan, ArtifactStore(opened.config.adapt.runtime.store)
    finished = Round(
        number=plan.number,
        name=opened.config.name,
        new=plan.new,
        earlier=plan.earlier,
        tasks=plan.tasks,
        run=run,
        evaluations=evaluations,
        judgements=tuple(judgements),
        decision=verdict.decision,
        reason=verdict.reason,
        version=version.number,
        decided_by=verdict.by,
    )
    save_round(store, opened.config, finished)
    rounds = load_rounds(store, opened.config.name)
    text = markdown_rounds(rounds)
    create_markdown_artifact(text, key="rounds", description=f"{finished.name}: gains and losses of each round")
    page = write_rounds(rounds, store.root / f"rounds-{finished.name}.html")
    _log_round(opened.registry.tracking, finished, text, page=page)
    return finished


@forgiving
def _log_round(tracking: Tracking, finished: Round, text: str, *, page: Path) -> None:
    """Log the results of the gates and the decision in the candidate's MLflow run."""
    import pandas as pd

    run_id = finished.run.tracking.run_id
    if not run_id:
        return
    gains = {
        f"gate/{judgement.gate}/{judgement.task}": judgement.gain
        for judgement in finished.judgements
        if judgement.is_judged
    }
    tracking.log_figures(run_id, gains)
    tags = {
        "mixcpt.round": str(finished.number),
        "mixcpt.round.decision": finished.decision,
        "mixcpt.round.decided_by": finished.decided_by,
        "mixcpt.round.corpora": ", ".join(finished.new),
    }
    tracking.tag(run_id, tags)
    tracking.client.log_table(run_id, pd.DataFrame(gate_rows(finished.judgements)), "gates.json")
    tracking.client.log_text(run_id, text, "rounds.md")
    tracking.client.log_artifact(run_id, str(page))
