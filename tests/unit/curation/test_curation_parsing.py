"""Prompts and answers of records and dialogues; inconsistent records are rejected with the name of the field."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixcpt.config import FieldNames, FilesSource, Pool
from mixcpt.curation.parsing import NotADialogue, RecordParser, split_dialogue
from mixcpt.curation.records import Defect, RawRecord, Record

ONE_TURN = "\n\nHuman: Why is the sky blue?\n\nAssistant: Because of scattering."
TWO_TURNS = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: And now?\n\nAssistant: Goodbye."


def parse(values: dict[str, object], pool: Pool, **settings: object) -> Record | Defect:
    source = FilesSource(name="s", pool=pool, paths=("unused",), **settings)  # type: ignore[arg-type]
    return RecordParser(source)(RawRecord("file", 3, values))


def test_single_question_loses_its_role_marker() -> None:
    assert split_dialogue(ONE_TURN) == ("Why is the sky blue?", "Because of scattering.")


def test_several_turns_stay_readable() -> None:
    assert split_dialogue(TWO_TURNS) == ("Human: Hi\n\nAssistant: Hello!\n\nHuman: And now?", "Goodbye.")


def test_dialogue_may_begin_without_blank_lines() -> None:
    assert split_dialogue("Human: a\n\nAssistant: b") == ("a", "b")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Just a text.", "no 'Assistant:'"),
        ("\n\nHuman: a\n\nAssistant:  ", "empty last answer"),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "ends with a 'Human:' turn"),
        ("\n\nHuman: \n\nAssistant: b", "empty question"),
        ("Hello\n\nAssistant: b", "does not begin"),
    ],
)
def test_text_that_is_no_dialogue_is_refused(text: str, reason: str) -> None:
    with pytest.raises(NotADialogue, match=reason):
        split_dialogue(text)


@given(
    turns=st.lists(st.text("abc .?\n", min_size=1).filter(str.strip), min_size=2, max_size=6).filter(
        lambda t: len(t) % 2 == 0
    )
)
def test_dialogue_of_any_turns_gives_back_its_last_answer(turns: list[str]) -> None:
    roles = ("Human", "Assistant")
    text = "".join(f"\n\n{roles[index % 2]}: {turn}" for index, turn in enumerate(turns))
    prompt, answer = split_dialogue(text)
    assert answer == turns[-1].strip()
    assert all(turn.strip() in prompt for turn in turns[:-1])
    assert ("Assistant:" in prompt) == (len(turns) > 2)


def test_preference_dialogue_becomes_prompt_and_two_answers() -> None:
    rejected = ONE_TURN.replace("Because of scattering.", "No idea.")
    record = parse({"chosen": ONE_TURN, "rejected": rejected}, "preferences", dialogue="human_assistant")
    assert isinstance(record, Record)
    assert record.texts == ("Why is the sky blue?", "Because of scattering.", "No idea.")


@pytest.mark.parametrize(
    ("chosen", "rejected", "field", "reason"),
    [
        (ONE_TURN, ONE_TURN.replace("sky", "sea"), "rejected", "another prompt"),
        (ONE_TURN, ONE_TURN.partition("Because")[0], "rejected", "empty last answer"),
        ("no dialogue", ONE_TURN, "chosen", "no 'Assistant:'"),
        (ONE_TURN, ONE_TURN, "rejected", "nothing to prefer"),
        (ONE_TURN, TWO_TURNS, "rejected", "another prompt"),
    ],
)
def test_preference_dialogues_that_do_not_fit_are_refused(chosen: str, rejected: str, field: str, reason: str) -> None:
    defect = parse({"chosen": chosen, "rejected": rejected}, "preferences", dialogue="human_assistant")
    assert isinstance(defect, Defect)
    assert (defect.file, defect.line, defect.field) == ("file", 3, field)
    assert reason in defect.reason


def test_instruction_dialogue_is_read_from_the_text_field() -> None:
    record = parse({"text": TWO_TURNS}, "instructions", dialogue="human_assistant")
    assert isinstance(record, Record)
    assert record.texts[1] == "Goodbye."


@pytest.mark.parametrize(
    ("further", "prompt"),
    [({"input": "3 + 4"}, "Add.\n3 + 4"), ({"input": ""}, "Add."), ({"input": None}, "Add."), ({}, "Add.")],
)
def test_input_stands_below_the_prompt(further: dict[str, object], prompt: str) -> None:
    fields = FieldNames(prompt="instruction", response="output")
    record = parse({"instruction": "Add.", "output": "7", **further}, "instructions", fields=fields)
    assert isinstance(record, Record)
    assert record.texts == (prompt, "7")


@pytest.mark.parametrize(
    ("values", "pool", "field"),
    [
        ({"response": "b"}, "instructions", "prompt"),
        ({"prompt": "a"}, "instructions", "response"),
        ({"prompt": "a", "response": ""}, "instructions", "response"),
        ({"prompt": "a", "response": "b", "input": 4}, "instructions", "input"),
        ({"prompt": "a", "chosen": "b"}, "preferences", "rejected"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "preferences", "rejected"),
        ({"prompt": "a", "response": "b"}, "general", "text"),
    ],
)
def test_unusable_record_names_the_field(values: dict[str, object], pool: Pool, field: str) -> None:
    defect = parse(values, pool)
    assert isinstance(defect, Defect)
    assert defect.field == field
    assert all(str(value) in defect.raw for value in values.values())
