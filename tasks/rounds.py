"""The tasks of a round: what is new, what each model answers, whether the candidate serves, what is left to read."""

import fcntl
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from mixcpt.config import Cause, ReadaptConfig
from mixcpt.errors import ConfigError
from mixcpt.records.round import Decision, Round, load_rounds, refused_corpora, save_round
from mixcpt.records.run import RunResult
from mixcpt.report import words
from mixcpt.report.rounds import markdown_rounds, write_rounds
from mixcpt.report.table import markdown_rows
from mixcpt.rounds.gates import GateEvaluations, Judgement, judge
from mixcpt.rounds.planning import RoundPlan, plan_round, register_own
from mixcpt.stages.chain import by_role, evaluation_job
from mixcpt.stages.jobs import JobOptions
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, resolve_model
from tasks.adaptation import reopen_adaptation
from tasks.champion import Registry, Version
from tasks.stage_groups import run_stage_group, worth_retrying
from tasks.tracking import Tracking, forgiving


@dataclass(frozen=True)
class Opened:
    """A round under way."""

    config: ReadaptConfig
    plan: RoundPlan
    champion: Version | None
    """The version that serves now."""
    base: ModelRef
    """The model that everything began with."""

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.config.adapt.runtime.store)

    @property
    def registry(self) -> Registry:
        return Registry(self.config.adapt.runtime)


@contextmanager
def one_round_at_a_time(store: ArtifactStore) -> Iterator[None]:
    """Waits until no other round works on this store; the kernel lets go of a dead one."""
    folder = store.root / "work"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "round.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            get_run_logger().info("another round is at work on %s; this one waits for its end", store.root)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def require_registered(cause: Cause, store: ArtifactStore) -> None:
    """Raises `ConfigError` where an event tells of a corpus that this worker's store has not."""
    if cause.fingerprint and store.find("registration", cause.fingerprint) is None:
        raise ConfigError(
            f"the corpus {cause.corpus} was registered in another store than {store.root}",
            "let `mixcpt corpus add --store` and adapt.runtime.store of this deployment name the same folder",
        )


@task(name="look for new corpora", retry_condition_fn=worth_retrying, retries=2, retry_delay_seconds=30)
def open_round(config: ReadaptConfig) -> Opened | None:
    """Returns the next round; None where nothing has been registered that the champion has not learned."""
    store, registry = ArtifactStore(config.adapt.runtime.store), Registry(config.adapt.runtime)
    register_own(config.adapt, store)
    champion = registry.champion()
    made = load_rounds(store, config.name)
    taken_back = registry.taken_back()
    unwanted = [name for each in made if each.run.refs[each.run.final].digest in taken_back for name in each.new]
    shunned = [name for name in (*refused_corpora(made), *unwanted) if name not in config.again]
    plan = plan_round(config, champion.model if champion else None, shunned, len(made) + 1, store)
    if plan is None:
        get_run_logger().info("nothing new: the champion has learned what is registered, or it was refused")
        return None
    get_run_logger().info("round %d learns %s", plan.number, ", ".join(plan.new))
    return Opened(config, plan, champion, resolve_model(config.adapt.base))


@task(name="ask base and champion", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def ask_others(opened: Opened, run: RunResult) -> dict[str, ArtifactRef]:
    """Returns the evaluations `base`, `champion` and `candidate`, of the same questions.

    The champion is asked in the form of the candidate, for it went the same way; the base in plain text.
    """
    evaluate = run.config.evaluate.model_copy(update={"kl_to_base": False})
    opening = reopen_adaptation(run, run.config.runtime)
    adaptation = replace(opening, config=opening.config.model_copy(update={"evaluate": evaluate}))
    form: Literal["plain", "chat"] = "plain" if run.final == "pretrained" else evaluate.aligned_form
    corpus = run.refs["corpus"]
    jobs = [evaluation_job(adaptation, corpus, "base", opened.base)]
    if opened.champion:
        options = JobOptions(form=form)
        jobs.append(evaluation_job(adaptation, corpus, "champion", opened.champion.model, options=options))
    evaluations = by_role(run_stage_group(adaptation, jobs))
    return {"champion": evaluations["base"], **evaluations, "candidate": run.evaluations["final"]}


@task(name="gates")
def hold_gates(opened: Opened, run: RunResult, evaluations: Mapping[str, ArtifactRef]) -> list[Judgement]:
    """Returns each gate on each task, after showing them as a table."""
    plan = opened.plan
    tasks = {
        "new": plan.tasks_about(plan.new),
        "earlier": plan.tasks_about(plan.earlier),
        "general": plan.tasks_about(("",)),
    }
    measured = GateEvaluations(evaluations["base"], evaluations["champion"], evaluations["candidate"])
    judged = judge(opened.config.gates, measured, tasks, run.config.evaluate, seed=run.config.seed)
    create_table_artifact(gate_rows(judged), key="gates", description=f"{run.name}: what must hold before it serves")
    return judged


def gate_rows(judged: list[Judgement]) -> list[dict[str, Any]]:
    """Returns one row a gate and task; gains count upwards, whatever the metric."""
    return [
        {
            "gate": each.gate,
            "task": each.task,
            "against": each.against,
            "split": each.split,
            "before": round(each.before, 4),
            "after": round(each.after, 4),
            "gain": round(each.gain, 4),
            "low": round(each.low, 4),
            "high": round(each.high, 4),
            "must": f"{each.rule} >= {each.at_least:g}",
            "holds": "yes" if each.holds else ("NO" if each.severity == "block" else "no (warning)"),
        }
        for each in judged
    ]


@dataclass(frozen=True)
class Verdict:
    """What becomes of a candidate."""

    decision: Decision
    reason: str
    by: str = ""
    """Who said so, where somebody did."""


def by_the_gates(judged: list[Judgement]) -> Verdict:
    """Returns what the gates alone would do."""
    if blocking := [each for each in judged if each.blocks]:
        return Verdict("refused", f"{words.listing([_failing(each) for each in blocking])}.")
    return Verdict("promoted", f"All {len(judged)} gates hold.")


def _failing(each: Judgement) -> str:
    change = f"{words.change(each.metric, each.gain)} {words.unit(each.metric)}"
    unknown = ", of too few items for an interval" if math.isnan(each.low) and each.rule != "likely" else ""
    return f"{each.gate} fails on {words.title(each.task)} ({change}{unknown})"


def what_to_look_at(opened: Opened, judged: list[Judgement]) -> str:
    """Returns what somebody who has to decide is shown, as Markdown."""
    rows = gate_rows(judged)
    table = markdown_rows([list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]) if rows else ""
    learned = words.markdown(words.listing(opened.plan.new))
    return f"Round {opened.plan.number} has learned {learned}. All gates hold. Shall its model serve?\n\n{table}"


def version_of(opened: Opened, run: RunResult) -> Version:
    """Returns the candidate as the registry knows it."""
    return opened.registry.version_of(run.refs[run.final].digest)


def ended_round(
    opened: Opened,
    run: RunResult,
    evaluations: Mapping[str, ArtifactRef],
    judged: list[Judgement],
    verdict: Verdict,
    version: Version,
) -> Round:
    """Returns what there is to remember of a round."""
    plan = opened.plan
    return Round(
        number=plan.number,
        name=opened.config.name,
        new=plan.new,
        earlier=plan.earlier,
        tasks=plan.tasks,
        run=run,
        evaluations=evaluations,
        judgements=tuple(judged),
        decision=verdict.decision,
        reason=verdict.reason,
        version=version.number,
        decided_by=verdict.by,
    )


@task(name="publish round")
def publish_round(opened: Opened, made: Round) -> ArtifactRef:
    """Returns the record of the round; publishes what it came to, and all rounds beside each other."""
    ref = save_round(opened.store, opened.config, made)
    so_far = load_rounds(opened.store, opened.config.name)
    text = markdown_rounds(so_far)
    create_markdown_artifact(text, key="rounds", description=f"{made.name}: what each round learned and forgot")
    page = write_rounds(so_far, opened.store.root / f"rounds-{made.name}.html")
    _log_round(opened.registry.tracking, made, text, page)
    return ref


@forgiving
def _log_round(tracking: Tracking, made: Round, text: str, page: Path) -> None:
    """Adds to the MLflow run of the candidate what the gates said and what was decided."""
    run_id = made.run.tracking.run_id
    if not run_id:
        return
    tracking.log_figures(run_id, {f"gate/{each.gate}/{each.task}": each.gain for each in made.judgements})
    told = {"decision": made.decision, "decided_by": made.decided_by, "corpora": ", ".join(made.new)}
    tracking.tag(
        run_id, {f"mixcpt.round.{name}": value for name, value in told.items()} | {"mixcpt.round": str(made.number)}
    )
    tracking.client.log_table(run_id, _columns(gate_rows(list(made.judgements))), "gates.json")
    tracking.client.log_text(run_id, text, "rounds.md")
    tracking.client.log_artifact(run_id, str(page))


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}
