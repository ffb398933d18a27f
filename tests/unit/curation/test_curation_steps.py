"""Cleaning steps and the held-out split, each by its own rule."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixcpt.config import Pool
from mixcpt.curation.records import Record
from mixcpt.curation.steps import Duplicates, MinLength, Normalise, Removal, clean_text, run_steps, split_heldout


def document(text: str, name: str = "", source: str = "s", pool: Pool = "domain") -> Record:
    return Record(id=f"{source}/{name or text}", source=source, pool=pool, texts=(text,))


def documents(count: int, start: int = 0) -> list[Record]:
    return [document(f"document number {index}") for index in range(start, start + count)]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("  line  \nnext\t \n\n", "line\nnext"),
        ("bell\x07 nul\x00 bom\ufeff", "bell nul bom"),
        ("e\u0301te\u0301", "été"),
        ("schÃ¶n", "schön"),
        (
            "tab\tstays, so do “curly quotes”, &amp; and ，wide signs",
            "tab\tstays, so do “curly quotes”, &amp; and ，wide signs",
        ),
        ("for x in y:\n    pass", "for x in y:\n    pass"),
        ("Alciphron<|endoftext|>", "Alciphron"),
        ("twice<|im_end|>\n<|endoftext|>", "twice"),
        ("a <|endoftext|> in the middle stays", "a <|endoftext|> in the middle stays"),
        ("<|endoftext|>", ""),
    ],
)
def test_clean_text_repairs_what_is_broken_and_nothing_else(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


@given(st.text(max_size=200))
def test_clean_text_is_nfc_without_controls_and_trailing_space(text: str) -> None:
    clean = clean_text(text)
    assert unicodedata.is_normalized("NFC", clean)
    assert not any(unicodedata.category(letter) == "Cc" and letter not in "\n\t" for letter in clean)
    assert all(line == line.rstrip() for line in clean.split("\n"))


def test_normalise_removes_a_record_of_which_nothing_is_left() -> None:
    record = Record(id="s/1", source="s", pool="instructions", texts=("question ", "<|endoftext|>"))
    (verdict,) = Normalise()([record])
    assert not verdict.keep
    assert verdict.record.texts == ("question", "")


def test_min_length_judges_documents_alone() -> None:
    answers = Record(id="s/2", source="s", pool="instructions", texts=("2 + 2?", "4"))
    verdicts = list(MinLength(10)([document("123456789"), document("1234567890"), answers]))
    assert [verdict.keep for verdict in verdicts] == [False, True, True]
    assert verdicts[0].reason == "shorter than 10 characters"


def test_duplicates_keep_the_first_of_each_across_sources() -> None:
    records = [document("x", "1", "a"), document("y", "2", "a"), document("x", "3", "b"), document("x", "4", "a")]
    verdicts = list(Duplicates()(records))
    assert [(verdict.keep, verdict.subject) for verdict in verdicts] == [
        (True, ""),
        (True, ""),
        (False, "a/1"),
        (False, "a/1"),
    ]


def test_same_question_with_another_answer_is_no_duplicate() -> None:
    records = [
        Record(id=f"s/{answer}", source="s", pool="instructions", texts=("q", answer))
        for answer in ("one", "two", "qone")
    ]
    assert all(verdict.keep for verdict in Duplicates()(records))


def test_steps_run_in_order_and_hand_over_what_they_remove() -> None:
    removed: list[Removal] = []
    records = [document("  long enough text "), document("short"), document("long enough text", "again")]
    kept = list(run_steps(records, [Normalise(), MinLength(8), Duplicates()], removed.append))
    assert [record.text for record in kept] == ["long enough text"]
    assert [(removal.step, removal.verdict.record.id) for removal in removed] == [
        ("min_characters", "s/short"),
        ("deduplicate", "s/again"),
    ]


def test_heldout_documents_stay_the_same_when_others_are_added_before_and_after() -> None:
    _, before = split_heldout(documents(300), 0.1, seed=3)
    more = [*documents(100, start=1000), *documents(300)[::-1], *documents(100, start=2000)]
    training, after = split_heldout(more, 0.1, seed=3)
    assert {record.id for record in before} <= {record.id for record in after}
    assert not {record.id for record in before} & {record.id for record in training}
    old = {record.id for record in documents(300)}
    assert {record.id for record in after} & old == {record.id for record in before}


def test_heldout_share_is_about_the_fraction_and_depends_on_the_seed() -> None:
    _, first = split_heldout(documents(4_000), 0.05, seed=0)
    _, second = split_heldout(documents(4_000), 0.05, seed=1)
    assert 150 <= len(first) <= 250  # 200 expected, standard deviation 14
    shared = {record.id for record in first} & {record.id for record in second}
    assert len(shared) < 30  # 10 expected


@given(
    texts=st.lists(st.sampled_from([f"text {index}" for index in range(40)]), max_size=80),
    fraction=st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 5),
)
def test_split_loses_nothing_keeps_duplicates_together_and_never_takes_all(
    texts: list[str], fraction: float, seed: int
) -> None:
    records = [document(text, str(index)) for index, text in enumerate(texts)]
    training, heldout = split_heldout(records, fraction, seed)
    assert sorted(record.id for record in training + heldout) == sorted(record.id for record in records)
    assert not {record.text for record in training} & {record.text for record in heldout}
    if records:
        assert training
    if fraction == 0:
        assert not heldout
    elif len(records) >= 20 and len(set(texts)) > 1:
        assert heldout
