"""Facts in all the ways in which they were asked, as the page shows them."""

from dataclasses import replace
from pathlib import Path

from mixcpt.records.run import RunResult
from mixcpt.report.sections.facts import MAX_ROWS, facts
from mixcpt.store.artifacts import ArtifactStore
from tests.unit.report_artifacts import BASE, accuracy_items, evaluation, hits, run

DOMAIN, GENERAL = "domain_questions", "general_questions_unasked"
DIRECT, REVERSE = [1, 1, 0, 1], [1, 0, 0]


def asked_twice(store: ArtifactStore, direct: list[int], reverse: list[int]) -> RunResult:
    """A run whose questions ask for the same facts in two ways, the last ones in one way only."""
    made = run(store, "twice", base_right={DOMAIN: hits(4, 0), GENERAL: hits(4, 1)}, final_right={
        DOMAIN: hits(4, 1), GENERAL: hits(4, 1)})  # fmt: skip

    def answers(right: dict[str, list[int]], digest: str) -> list[dict[str, object]]:
        return [
            item | {"fact": f"fact {number}"}
            for task, values in right.items()
            for number, item in enumerate(accuracy_items(task, values))
        ]

    nothing = {DOMAIN: [0] * len(direct), "reverse": [0] * len(reverse)}
    base = evaluation(store, "plain", BASE, answers(nothing, "b"))
    model = {"name": "m", "digest": "m" * 64}
    final = evaluation(store, "plain", model, answers({DOMAIN: direct, "reverse": reverse}, "m"))
    return replace(made, evaluations=made.evaluations | {"base": base, "final": final})


def test_facts_asked_in_several_ways_come_with_the_state_in_each(tmp_path: Path) -> None:
    found = facts(asked_twice(ArtifactStore(tmp_path), DIRECT, REVERSE))
    assert found.num_ways == 3  # the fourth was asked in one way only
    states = {ways.fact: dict(ways.states) for ways in found.ways}
    assert states["fact 0"] == {DOMAIN: "learned", "reverse": "learned"}
    assert states["fact 1"][DOMAIN] == "learned" and states["fact 1"]["reverse"] != "learned"
    assert found.ways[0].fact == "fact 1"  # known in one way and not in the other: the most telling


def test_facts_are_cut_to_what_a_page_holds_and_counted_whole(tmp_path: Path) -> None:
    found = facts(asked_twice(ArtifactStore(tmp_path), [1] * 300, [0] * 300))
    assert (len(found.ways), found.num_ways) == (MAX_ROWS, 300)
    assert (len(found.rows), found.num_rows) == (MAX_ROWS, 600)
