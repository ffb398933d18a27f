"""Re-adaptation: the champion learns what has been registered since, and what it became serves where the gates hold."""

from prefect import flow, pause_flow_run
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from prefect.states import Completed
from pydantic import Field

from flows.adapt import adapt
from flows.promotion import put_in_place
from mixcpt.config import Cause, ReadaptConfig
from mixcpt.records.round import Round
from mixcpt.rounds.gates import Judgement
from mixcpt.store.artifacts import ArtifactStore
from tasks.champion import record_promotion
from tasks.hooks import HOOKS
from tasks.rounds import (
    Opened,
    Verdict,
    ask_others,
    by_the_gates,
    ended_round,
    hold_gates,
    one_round_at_a_time,
    open_round,
    publish_round,
    require_registered,
    version_of,
    what_to_look_at,
)


class Approval(RunInput):
    """Whether the candidate may serve."""

    promote: bool = Field(False, description="Whether the candidate becomes champion.")
    by: str = Field(description="Your name, for whoever reads the lineage.", min_length=1, max_length=100)
    because: str = Field("", description="Why, in a sentence.", max_length=500)


@flow(
    name="readapt",
    flow_run_name="{config.name}",
    **HOOKS,
)
def readapt(config: ReadaptConfig = ReadaptConfig(), cause: Cause = Cause()) -> Round | None:  # noqa: B008
    """Teach the champion what has been registered since, without losing what it learned before.

    What is new is curated and learned, what earlier rounds learned is read again beside it; base, champion and
    candidate are asked the same questions about every corpus so far. Where the gates hold, and somebody agrees where
    that is asked for, the candidate becomes champion. Nothing new, nothing done.
    """
    store = ArtifactStore(config.adapt.runtime.store)
    require_registered(cause, store)
    with one_round_at_a_time(store):
        opened = open_round(config)
        if opened is None:
            return Completed(name="NothingNew", message="the champion has learned what is registered")  # type: ignore
        run = adapt(opened.plan.config)
        evaluations = ask_others(opened, run)
        judged = hold_gates(opened, run, evaluations)
        verdict = _decide(opened, judged)
        version = version_of(opened, run)
        if verdict.decision == "promoted":
            previous = put_in_place(version, config.adapt.runtime)
            record_promotion(opened.registry, version.number, previous, verdict.reason)
        made = ended_round(opened, run, evaluations, judged, verdict, version)
        publish_round(opened, made)
        return made


def _decide(opened: Opened, judged: list[Judgement]) -> Verdict:
    """Returns what becomes of the candidate; the gates are asked first, then somebody, if that is wanted."""
    verdict = by_the_gates(judged)
    if verdict.decision == "refused" or opened.config.approval == "automatic":
        return verdict
    try:
        answer = pause_flow_run(
            wait_for_input=Approval.with_initial_data(description=what_to_look_at(opened, judged)),
            timeout=round(opened.config.approval_hours * 3600),
            key=f"approval-{opened.plan.number}",
        )
    except FlowPauseTimeout:
        return Verdict("unanswered", f"Nobody answered within {opened.config.approval_hours:g} hours.")
    reason = f"Decided by {answer.by}" + (f": {answer.because}" if answer.because else ", who gave no reason.")
    return Verdict("promoted" if answer.promote else "declined", reason, answer.by)
