"""Facts that several tasks ask for, as the page shows them."""

from dataclasses import replace
from pathlib import Path

from mixcpt.records.run import RunResult
from mixcpt.report.sections.answers import MAX_ROWS, facts
from mixcpt.store.artifacts import ArtifactStore
from tests.unit.report_artifacts import BASE, accuracy_items, evaluation, hits, run

DOMAIN, GENERAL = "domain_questions", "general_questions_unasked"
DIRECT, REVERSE = [1, 1, 0, 1], [1, 0, 0]


def run_with_repeated_facts(store: ArtifactStore, direct: list[int], reverse: list[int]) -> RunResult:
    """Return a run in which two tasks ask for the same facts; the last facts are in one task only."""
    made = run(store, "twice", base_right={DOMAIN: hits(4, 0), GENERAL: hits(4, 1)}, final_right={
        DOMAIN: hits(4, 1), GENERAL: hits(4, 1)})  # fmt: skip

    def answers(right: dict[str, list[int]]) -> list[dict[str, object]]:
        items = []
        for task, values in right.items():
            items += [item | {"fact": f"fact {index}"} for index, item in enumerate(accuracy_items(task, values))]
        return items

    nothing = {DOMAIN: [0] * len(direct), "reverse": [0] * len(reverse)}
    base = evaluation(store, "plain", BASE, answers(nothing))
    model = {"name": "m", "digest": "m" * 64}
    final = evaluation(store, "plain", model, answers({DOMAIN: direct, "reverse": reverse}))
    return replace(made, evaluations=made.evaluations | {"base": base, "final": final})


def test_facts_of_several_tasks_have_one_state_per_task(tmp_path: Path) -> None:
    shown = facts(run_with_repeated_facts(ArtifactStore(tmp_path), DIRECT, REVERSE))
    assert shown.num_multiple == 3  # only one task asks for the fourth fact
    states = {fact.fact: dict(fact.states) for fact in shown.multiple}
    assert states["fact 0"] == {DOMAIN: "learned", "reverse": "learned"}
    assert states["fact 1"][DOMAIN] == "learned" and states["fact 1"]["reverse"] != "learned"
    assert shown.multiple[0].fact == "fact 1"  # known in one task only: the most interesting fact


def test_facts_are_cut_to_the_size_of_a_page_and_counted_completely(tmp_path: Path) -> None:
    shown = facts(run_with_repeated_facts(ArtifactStore(tmp_path), [1] * 300, [0] * 300))
    assert (len(shown.multiple), shown.num_multiple) == (MAX_ROWS, 300)
    assert (len(shown.rows), shown.num_rows) == (MAX_ROWS, 600)
