"""Mined tasks: supported by their document, decided only by text and seed, in words of the closed world."""

import gzip
import json
import os
import re
import subprocess
import sys
from itertools import chain, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcpt.closed_world.documents import documents_of, notes_of, state
from mixcpt.closed_world.templates import STATEMENTS
from mixcpt.closed_world.tokenizer import build_tokenizer
from mixcpt.closed_world.words import VALUES
from mixcpt.closed_world.world import Fact, world
from mixcpt.config import Form
from mixcpt.mixture.mined import LABELS, QUESTION_KINDS, compose, mine_tasks
from mixcpt.mixture.patterns import MinedTask

FORMS: tuple[Form, ...] = ("reading", "questions_after", "questions_before")
HEART = (
    "The heart is a muscle. The function of the heart is to pump blood. Old hearts beat slowly because the walls "
    "of their vessels are stiff. Blood that has lost its oxygen returns to the right atrium."
)


def mined(text: str, seed: int = 0) -> list[MinedTask]:
    """All tasks of a text."""
    return mine_tasks(text, max_tasks=10**6, seed=seed)


def wordings(text: str) -> set[tuple[str, str, str]]:
    """Kind, question and answer of every task under any of many seeds."""
    tasks = chain.from_iterable(mined(text, seed) for seed in range(40))
    return {(task.kind, task.question, task.answer) for task in tasks}


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def world_documents() -> list[str]:
    """Documents of all wordings: every fact once, every fact twice, and single statements."""
    entities = world(0).domain[::3]
    documents = [documents_of(entity, 0, 3, mentions) for entity, mentions in product(entities, (1, 2))]
    notes = [notes_of(entity, 0) for entity in entities[:5]]
    return list(chain.from_iterable([*documents, *notes]))


@pytest.mark.parametrize(
    ("text", "kind", "question", "answer"),
    [
        ("The ore of Biror is nickel.", "relation", "What is the ore of Biror?", "nickel"),
        (HEART, "relation", "What is the function of the heart?", "to pump blood"),
        ("Paris’s oldest bridge is the Pont Neuf.", "relation", "What is Paris’s oldest bridge?", "the Pont Neuf"),
        ("For Biror, the ore is tin.", "relation", "For Biror, what is the ore?", "tin"),
        ("The bone that joins arms is the ulna.", "relation", "Name the bone that joins arms.", "the ulna"),
        (HEART, "definition", "What is the heart?", "The heart is a muscle."),
        ("A cell is a unit.", "definition", "Tell me what a cell is.", "A cell is a unit."),
        ("There is a valley called Biror.", "definition", "What kind of thing is Biror?", "a valley"),
        ("The wall of bone is called the cortex.", "definition", "What is the wall of bone called?", "the cortex"),
        (HEART, "cause", "Old hearts beat slowly. Why?", "Because the walls of their vessels are stiff."),
        ("The swelling is due to a lack of protein.", "cause", "What is the swelling due to?", "a lack of protein"),
        (HEART, "cloze", "Blood that has lost its oxygen returns to what?", "the right atrium"),
        (
            "Bone is alive all the time. Therefore, it can heal.",
            "entailment",
            "Premise: Bone is alive all the time. Hypothesis: It can heal. Entailment, contradiction or neutral?",
            "Entailment",
        ),
        (
            "Bone is alive all the time. In other words, it has cells of its own.",
            "paraphrase",
            "Say this in other words: Bone is alive all the time.",
            "It has cells of its own.",
        ),
        (
            "Pressure increases in the heart. As a result, the valve is closed.",
            "cause",
            "What is the result of this? Pressure increases in the heart.",
            "The valve is closed.",
        ),
        ("# The Kidney\n\nBlood is filtered here.", "summary", "What is this about?", "The Kidney"),
        ("# The Kidney\n\nBlood is filtered here.", "title", "Tell me about The Kidney.", "Blood is filtered here."),
    ],
)  # fmt: skip
def test_sentence_of_a_known_form_gives_its_question(text: str, kind: str, question: str, answer: str) -> None:
    assert (kind, question, answer) in wordings(text)


def test_words_to_text_asks_with_words_to_which_the_document_comes_back() -> None:
    text = "Nerves carry signals through muscles. Signals in nerves make muscles move."
    tasks = [task for task in mined(text) if task.kind == "word_to_text"]
    assert {task.answer for task in tasks} == set(text.replace(". ", ".|").split("|"))
    assert all({"nerves", "signals", "muscles"} <= words(task.question) for task in tasks)


def test_long_document_is_to_be_completed_from_its_half() -> None:
    halves = "The first is red. The second is blue.", "The third is green. The last is white."
    text = "\n\n".join([" ".join(halves), "One is here. Two are here. Three are here. Four are here."])
    tasks = [task for task in mined(text) if task.kind == "completion"]
    assert any(task.question.endswith(halves[0]) and task.answer == halves[1] for task in tasks)


def test_glossary_gives_definitions() -> None:
    terms = {"cell": "smallest unit of all organisms", "organ": "structure of several tissues"}
    terms |= {"tissue": "group of similar cells that act together", "neuron": "cell that carries a signal"}
    text = "\n\n".join(f"{term}: {meaning}" for term, meaning in terms.items())
    assert {(task.question, task.answer) for task in mined(text)} == {
        (f"What is meant by {term}?", meaning) for term, meaning in terms.items()
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no sentence at all",
        "It is a muscle. They are found in the heart.",  # their subject is only in the sentence before
        "The mass of the ( a) is the mean of",
        "def f(x):\n    return {x} is the_end.",
        "| The heart | is a muscle. |",
        "- The heart is a muscle.",
        "The pulse effects of exercise: A review in adults.",  # title of a reference
        "Das Herz ist ein Muskel. Es pumpt das Blut durch den Körper.",
        "心臓は筋肉です。血液を送ります。",
    ],
)
def test_what_is_no_plain_english_sentence_gives_no_task_and_stays_as_it_is(text: str) -> None:
    assert mined(text) == []
    for form in FORMS:
        assert compose(text, form, "\n", seed=0) == text


def test_wrapped_lines_are_one_sentence() -> None:
    text = "Public keys of the project can be used by all those who are given\naccess to the archive."
    assert {answer for *_, answer in wordings(text)} == {"the archive"}
    assert mined(text.replace("\n", "\n\n")) == []


def supported(text: str) -> list[MinedTask]:
    """All tasks of a text, after checking that it contains their answers."""
    tasks = mined(text)
    in_text = words(text)
    for task in tasks:
        assert task.question and task.answer
        assert task.answer in LABELS or words(task.answer) <= in_text, task
    return tasks


FRAGMENTS = (
    "The heart|ẞtraße|İt|x|is|are|a muscle|the|of|due to|because|so that|has the|However,|Therefore,|In other words,|"
    "For example,|called|that|Biror’s|ǰ|{name}|%s|\\1|.|. |.\n|\n\n| |,|:|(|)|“|\u2028|\x00|é|Σ|12|-"
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS.split("|")), max_size=60)


@settings(deadline=None)
@given(st.one_of(st.text(), TEXTS.map(" ".join), TEXTS.map("".join)))
def test_every_answer_is_in_the_words_of_the_document(text: str) -> None:
    supported(text)


def test_every_answer_from_real_documents_is_in_their_words(shared_data: Path) -> None:
    with gzip.open(shared_data / "medicine" / "anatomy-physiology.docs.jsonl.gz", "rt") as lines:
        texts = [json.loads(line)["text"] for line in list(lines)[:25]]
    kinds = [task.kind for task in chain.from_iterable(supported(text) for text in texts)]
    assert {
        *QUESTION_KINDS,
        "summary",
        "title",
        "word_to_text",
        "entailment",
        "example",
        "paraphrase",
        "completion",
    } == set(kinds)
    assert len(kinds) > 20 * len(texts)


def test_closed_world_answers_are_the_values_of_its_facts() -> None:
    for entity in world(0).domain:
        facts = {fact.relation: fact.value for fact in entity.facts}
        for text in documents_of(entity, 0, 4):
            relations = [task for task in mined(text) if task.kind == "relation"]
            for task in relations:
                relations_in_question = words(task.question) & set(facts)
                assert [task.answer] == [facts[relation] for relation in relations_in_question], task
            assert len(relations) >= 2


@pytest.mark.parametrize("template", STATEMENTS)
def test_every_value_of_the_closed_world_can_be_asked_for(template: str) -> None:
    for value in chain.from_iterable(VALUES.values()):
        (task,) = mined(state(Fact(entity="Biror", kind="valley", relation="ore", value=value, values=""), template))
        assert task.kind in ("relation", "cloze")
        assert task.answer == value
        assert {"biror", "ore"} <= words(task.question)


@pytest.mark.parametrize("form", FORMS)
def test_closed_world_tokenizer_knows_every_word_of_a_composed_document(form: Form) -> None:
    tokenizer = build_tokenizer()
    for seed, text in product(range(2), world_documents()):
        document = compose(text, form, "\n", seed=seed)
        assert tokenizer.unk_token_id not in tokenizer(document).input_ids


def test_form_text_is_the_document_itself() -> None:
    assert compose(HEART, "text", "\n", seed=0) == HEART


def test_questions_stand_before_or_behind_the_document_as_blocks() -> None:
    after = compose(HEART, "questions_after", " => ", seed=0)
    before = compose(HEART, "questions_before", " => ", seed=0)
    text, *blocks = after.split("\n\n")
    *same, last = before.split("\n\n")
    assert text == last == HEART
    assert blocks == same
    assert len(blocks) == 4
    tasks = mine_tasks(HEART, max_tasks=9, seed=0, kinds=QUESTION_KINDS)
    assert set(blocks) == {f"{task.question} => {task.answer}" for task in tasks}


def test_reading_appends_its_tasks_in_varied_ways_and_orders() -> None:
    composed = [compose(HEART, "reading", "\n", seed=seed) for seed in range(30)]
    assert all(text.startswith(HEART + "\n\n") for text in composed)
    behind = [text.removeprefix(HEART + "\n\n") for text in composed]
    assert len({text.count("\n\n") for text in behind}) > 1
    assert len({text.partition("\n")[0] for text in behind}) > 6


def test_kinds_take_turns_so_that_a_common_one_does_not_crowd_out_a_rare_one() -> None:
    common = " ".join(f"Blood {number} was taken from the arm of patient {number}." for number in range(50))
    kinds = [task.kind for task in mine_tasks(f"{common} {HEART}", max_tasks=4, seed=0, kinds=QUESTION_KINDS)]
    assert set(kinds) == QUESTION_KINDS


@settings(deadline=None)
@given(st.integers(0, 8), st.integers(0, 5))
def test_no_more_tasks_than_asked_for_and_none_twice(max_tasks: int, seed: int) -> None:
    tasks = mine_tasks(HEART, max_tasks=max_tasks, seed=seed)
    assert len(tasks) == min(max_tasks, len(mined(HEART, seed)))
    assert len(set(tasks)) == len(tasks)


def test_choice_depends_on_the_seed() -> None:
    assert len({tuple(mined(HEART, seed)) for seed in range(5)}) > 1


def test_choice_is_the_same_under_another_hash_seed() -> None:
    code = "import sys; from mixcpt.mixture.mined import compose; print(compose(sys.argv[1], 'reading', '|', seed=3))"
    outputs = {
        subprocess.check_output(
            [sys.executable, "-c", code, HEART], env={**os.environ, "PYTHONHASHSEED": seed}
        ).decode()
        for seed in ("1", "2")
    }
    assert outputs == {compose(HEART, "reading", "|", seed=3) + "\n"}


def test_pathological_text_takes_no_long_time() -> None:
    units = [
        "A",
        "A a. ",
        "The ",
        "The a of b is c. ",
        "The of the ",
        "(",
        "“A is b.” ",
        "\n",
        "a b\n",
        "Abc is a def.\n\n",
    ]
    units += [
        "a: b",
        "X's ",
        "because ",
        "The heart beats because of it, and ",
        "Therefore, ",
        "Abc of the Ghi ",
        "\u2028",
    ]
    code = (
        "import sys, time; from mixcpt.mixture.mined import compose\n"
        "for unit in sys.argv[1:]:\n"
        "    text, started = unit * (200_000 // len(unit)) + '.', time.process_time()\n"
        "    compose(text, 'reading', '|', seed=0)\n"
        "    assert time.process_time() - started < 2, unit"
    )  # in a separate process without run-time checks of shapes and types
    subprocess.run([sys.executable, "-c", code, *units], check=True)


def test_mining_needs_no_torch() -> None:
    code = "import sys, mixcpt.mixture.mined; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
