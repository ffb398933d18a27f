"""The matrix of rounds: values, forgetting, and the texts of the page."""

import math
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from mixcpt.config import ReadaptConfig
from mixcpt.records.round import Decision, Judgement, Round, load_rounds, refused_corpora, save_round
from mixcpt.report.rounds import cells, forgetting_verdict, markdown_rounds, show_rounds, write_rounds
from mixcpt.rounds.matrix import Matrix, general_task, matrix
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from tests.unit.report_artifacts import accuracy_items, evaluation, hits, run

GENERAL = "general_questions_unasked"


def asked(store: ArtifactStore, name: str, size: int = 20, **shares: float) -> ArtifactRef:
    items = list(chain.from_iterable(accuracy_items(task, hits(size, share)) for task, share in shares.items()))
    return evaluation(store, "plain", {"name": name, "digest": name}, items)


def made_round(
    store: ArtifactStore,
    number: int,
    decision: Decision,
    corpora: tuple[str, ...],
    shares: dict[str, tuple[float, float, float]],
    reason: str = "Because.",
    size: int = 20,
) -> Round:
    """Return a round with the accuracies of base, champion and candidate by task; the tasks are named like corpora."""
    right = {"domain_questions": hits(20, 0.5), GENERAL: hits(20, 0.9)}
    evaluations = {
        role: asked(store, f"{role}-{number}", size, **{task: values[place] for task, values in shares.items()})
        for place, role in enumerate(("base", "champion", "candidate"))
    }
    judged = Judgement(
        gate="learns",
        severity="block",
        task=corpora[-1],
        against="champion",
        metric="accuracy",
        before=0.1,
        after=0.5,
        gain=0.4,
        low=0.2,
        high=0.6,
        rule="sure",
        at_least=0.0,
        split="report",
        holds=True,
    )
    return Round(
        number=number,
        name="rounds",
        new=corpora[-1:],
        earlier=corpora[:-1],
        tasks={**{corpus: (corpus,) for corpus in corpora}, "": (GENERAL,)},
        run=run(store, f"rounds-{number}", base_right=right, final_right=right),
        evaluations=evaluations,
        judgements=(judged,),
        decision=decision,
        reason=reason,
        version=str(number),
    )


@pytest.fixture
def three(tmp_path: Path) -> tuple[ArtifactStore, list[Round]]:
    """Three rounds: learned, refused, and learned with a loss on the first corpus."""
    store = ArtifactStore(tmp_path / "store")
    first = made_round(store, 1, "promoted", ("one",), {"one": (0.1, 0.1, 0.9), GENERAL: (1.0, 1.0, 0.95)})
    second = made_round(
        store, 2, "refused", ("one", "two"), {"one": (0.1, 0.9, 0.2), "two": (0.0, 0.1, 0.8), GENERAL: (1.0, 0.95, 0.3)}
    )
    third = made_round(
        store,
        3,
        "promoted",
        ("one", "three"),
        {"one": (0.1, 0.9, 0.75), "three": (0.05, 0.15, 0.7), GENERAL: (1.0, 0.95, 0.9)},
    )
    return store, [first, second, third]


def test_matrix_has_a_row_a_model_and_a_column_a_corpus(three: tuple[ArtifactStore, list[Round]]) -> None:
    table = matrix(three[1])
    assert [column.corpus for column in table.columns] == ["one", "two", "three", ""]
    values = [[row.values.get(column.corpus) for column in table.columns] for row in table.rows]
    assert values == [
        [0.1, 0.0, 0.05, 1.0],
        [0.9, 0.1, 0.15, 0.95],  # asked again, as champion, about what came later
        [0.2, 0.8, None, 0.3],
        [0.75, None, 0.7, 0.9],
    ]


def test_forgetting_is_counted_along_the_models_that_served(three: tuple[ArtifactStore, list[Round]]) -> None:
    lost = {each.corpus: round(each.lost, 4) for each in matrix(three[1]).forgotten()}
    assert lost == {"one": 0.15, "two": 0.0, "three": 0.0, "": 0.05}
    assert "The greatest loss is on one: 15.0 points" in forgetting_verdict(matrix(three[1]))
    assert "No model has served" in forgetting_verdict(matrix(three[1][1:2]))


def test_refused_corpora_are_cleared_once_a_round_has_learned_them(three: tuple[ArtifactStore, list[Round]]) -> None:
    store, made = three
    assert refused_corpora(made) == ["two"]
    nothing = dict.fromkeys(("one", "two", "three", GENERAL), (0.0, 0.0, 0.0))
    again = made_round(store, 4, "promoted", ("one", "three", "two"), nothing)
    assert refused_corpora([*made, again]) == []
    unanswered = made_round(store, 5, "unanswered", ("one", "two"), nothing)
    assert refused_corpora([*made, unanswered]) == ["two"]


def test_rounds_are_found_again_in_their_order(three: tuple[ArtifactStore, list[Round]]) -> None:
    store, made = three
    for each in made:
        save_round(store, ReadaptConfig(name="rounds"), each)
    found = load_rounds(store, "rounds")
    assert [(each.number, each.decision, each.judgements) for each in found] == [
        (each.number, each.decision, each.judgements) for each in made
    ]
    assert load_rounds(store, "others") == []


def test_page_and_text_show_the_decision_and_escape_it(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    hostile = "<script>alert(1)</script>"
    made = made_round(store, 1, "refused", ("one",), {"one": (0.1, 0.1, 0.9), GENERAL: (1.0, 1.0, 0.95)}, hostile)
    page = write_rounds([made], tmp_path / "page.html").read_text()
    text = markdown_rounds([made])
    for shown in (page, text):
        assert "90.0" in shown
        assert "<script>" not in shown
    assert page.count("learns") >= 1


def test_rounds_without_general_task_say_first_that_forgetting_was_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ArtifactStore(tmp_path / "store")
    made = replace(made_round(store, 1, "promoted", ("one",), {"one": (0.1, 0.1, 0.9)}), tasks={"one": ("one",)})
    save_round(store, ReadaptConfig(name="rounds"), made)
    assert [column.corpus for column in matrix([made]).columns] == ["one"]
    assert general_task(made) == ""
    assert markdown_rounds([made]).startswith("Forgetting was not measured")
    page = write_rounds([made], tmp_path / "page.html").read_text()
    assert page.split('<p class="lead">')[1].startswith("Forgetting was not measured")
    show_rounds(made, "rounds", store)
    sentences = capsys.readouterr().out.split("╯")[-1].split("┘")[-1].split()
    assert " ".join(sentences).startswith("Forgetting was not measured: no task is general. Round 1 learned one")


def test_gate_that_cannot_judge_is_shown_on_the_page(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    made = made_round(store, 1, "refused", ("one",), {"one": (0.1, 0.1, 0.9)})
    nothing = dict.fromkeys(("before", "after", "gain", "low", "high"), math.nan)
    blind = replace(made.judgements[0], gate="keeps", task="", metric="", holds=False, **nothing)
    made = replace(made, tasks={"one": ("one",)}, judgements=(blind,))
    row = write_rounds([made], tmp_path / "page.html").read_text().split('<th scope="row">keeps</th>')[1]
    assert "no general task" in row and "cannot judge" in row and "nan" not in row.split("</tr>")[0]


def test_headline_that_is_no_general_task_is_replaced_by_the_first_general_task(tmp_path: Path) -> None:
    shares = {"one": (0.1, 0.1, 0.9), "kept": (1.0, 1.0, 0.95)}
    made = made_round(ArtifactStore(tmp_path / "store"), 1, "promoted", ("one",), shares)
    made = replace(made, tasks={"one": ("one",), "": ("kept",)})
    assert general_task(made) == "kept"
    assert [column.task for column in matrix([made]).columns] == ["one", "kept"]


def test_few_passages_show_no_loss_and_their_number(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    rounds = [
        made_round(store, 1, "promoted", ("one",), {"one": (0.1, 0.1, 0.9), GENERAL: (1.0, 1.0, 0.9)}, size=8),
        made_round(
            store, 2, "promoted", ("one", "two"), {"one": (0.1, 0.9, 0.2), "two": (0.0, 0.1, 0.8), GENERAL: (1, 1, 1)},
            size=8,
        ),
    ]  # fmt: skip
    sentence = forgetting_verdict(matrix(rounds))
    assert "greatest loss" not in sentence and "fewer than 10 passages: one and two" in sentence
    assert "one (8 passages)" in markdown_rounds(rounds)
    page = write_rounds(rounds, tmp_path / "page.html").read_text()
    assert "<small>8\xa0passages</small>" in page and "--share: 1.00" not in page


def test_scores_at_chance_are_marked_with_the_chance_level(three: tuple[ArtifactStore, list[Round]]) -> None:
    table = matrix(three[1])
    guessed = replace(table, columns=tuple(replace(column, chance=0.25) for column in table.columns))
    assert [guessed.columns[0].is_at_chance(value) for value in (0.1, 0.2, 0.3, 0.75)] == [True, True, True, False]
    table_text = "\n".join(row for row in _rows(guessed))
    assert "20.0\xa0% (at chance)" in table_text and "75.0\xa0%" in table_text
    unlearned = replace(guessed, rows=(guessed.rows[0], replace(guessed.rows[1], values={"one": 0.2})))
    assert forgetting_verdict(unlearned) == ("Not judged, because of scores at chance or fewer than 10 passages: one.")


def _rows(table: Matrix) -> list[str]:
    return [" | ".join(cells(row, table)) for row in table.rows]
