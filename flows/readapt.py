"""Readaptation: the champion learns newly registered corpora, and the result is promoted if the gates hold."""

from prefect import flow, pause_flow_run
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from prefect.states import Completed
from pydantic import Field

from flows.adapt import adapt
from flows.promotion import serve_version
from mixcpt.config import Cause, ReadaptConfig
from mixcpt.records.round import Judgement, Round
from mixcpt.store.artifacts import ArtifactStore
from tasks.hooks import HOOKS
from tasks.registry import record_promotion
from tasks.rounds import (
    OpenRound,
    Verdict,
    approval_request,
    check_gates,
    evaluate_others,
    one_round_at_a_time,
    open_round,
    publish_round,
    require_registered,
    verdict_of_gates,
)


class Approval(RunInput):
    """Decision about the candidate."""

    promote: bool = Field(False, description="Whether the candidate becomes champion.")
    by: str = Field(description="Your name, for the lineage of the model.", min_length=1, max_length=100)
    because: str = Field("", description="Reason for the decision, in one sentence.", max_length=500)


@flow(name="readapt", flow_run_name="{config.name}", **HOOKS)
def readapt(config: ReadaptConfig = ReadaptConfig(), cause: Cause = Cause()) -> Round | None:  # noqa: B008
    """Teach the champion the newly registered corpora without losing earlier ones.

    The champion is trained on the new corpora, mixed with the corpora of earlier rounds. Base, champion and candidate
    are then evaluated on the same questions about every corpus so far. If the gates hold, and a person approves if
    the settings require it, the candidate becomes champion. Without a new corpus, nothing is computed.
    """
    store = ArtifactStore(config.adapt.runtime.store)
    require_registered(cause, store)
    with one_round_at_a_time(store):
        opened = open_round(config)
        if opened is None:
            return Completed(name="NothingNew", message="every registered corpus was learned or refused")  # type: ignore
        run = adapt(opened.plan.config)
        evaluations = evaluate_others(opened, run)
        judgements = check_gates(opened, run, evaluations)
        verdict = _decide(opened, judgements)
        version = opened.registry.version_of_run(run)
        if verdict.decision == "promoted":
            previous = serve_version(version, config.adapt.runtime)
            record_promotion(opened.registry, version.number, previous, because=verdict.reason)
        return publish_round(
            opened, run, evaluations=evaluations, judgements=judgements, verdict=verdict, version=version
        )


def _decide(opened: OpenRound, judgements: list[Judgement]) -> Verdict:
    """Decide about the candidate by the gates and, if they hold and the settings require it, by a person's approval."""
    verdict = verdict_of_gates(judgements)
    if verdict.decision == "refused" or opened.config.approval == "automatic":
        return verdict
    try:
        answer = pause_flow_run(
            wait_for_input=Approval.with_initial_data(description=approval_request(opened, judgements)),
            timeout=round(opened.config.approval_hours * 3600),
            key=f"approval-{opened.plan.number}",
        )
    except FlowPauseTimeout:
        return Verdict("unanswered", f"Not decided within {opened.config.approval_hours:g} hours.")
    reason = f"Decided by {answer.by}" + (f": {answer.because}" if answer.because else ", without a reason.")
    return Verdict("promoted" if answer.promote else "declined", reason, answer.by)
