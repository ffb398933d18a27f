"""Questions in the forms that people have become the same items; what is ambiguous or damaged is refused by name."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from mixcpt.config import MultipleChoiceTask
from mixcpt.errors import DataError
from mixcpt.evaluate.asking.files import read_file
from mixcpt.evaluate.asking.items import Item
from mixcpt.evaluate.asking.records import BadRecord

QUESTIONS = [
    ("Which metal is liquid?", ["iron", "mercury", "zinc", "tin"], 1),
    ("Which gas do plants give off?", ["oxygen", "argon", "helium", "neon"], 0),
    ('What is "ice, melted"?', ["steam", "snow", "sand", "water"], 3),
]
GOLD = ["mercury", "oxygen", "water"]
LETTERS = "ABCD"


def listed(key: Any = lambda place, choices: place, choices: Any = list) -> list[dict[str, Any]]:
    return [{"question": q, "choices": choices(texts), "answer": key(place, texts)} for q, texts, place in QUESTIONS]


def columns(names: list[str], key: Any) -> list[dict[str, Any]]:
    return [
        {"question": q, **dict(zip(names, texts, strict=True)), "answer": key(place, texts)}
        for q, texts, place in QUESTIONS
    ]


def table(records: list[dict[str, Any]], delimiter: str = ",", **options: Any) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), delimiter=delimiter, **options)
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


KEYS = {
    "letter": lambda place, texts: LETTERS[place],
    "small letter": lambda place, texts: LETTERS[place].lower(),
    "bracket": lambda place, texts: f"({LETTERS[place]})",
    "dot": lambda place, texts: f" {LETTERS[place]}. ",
    "letter and text": lambda place, texts: f"{LETTERS[place]}. {texts[place]}",
    "from zero": lambda place, texts: place,
    "from one": lambda place, texts: place + 1,
    "digits from zero": lambda place, texts: str(place),
    "digits from one": lambda place, texts: str(place + 1),
    "float from one": lambda place, texts: float(place + 1),
    "text": lambda place, texts: texts[place].upper(),
    "list of one": lambda place, texts: [LETTERS[place]],
}
NAMES = {
    "letters": ["A", "B", "C", "D"],
    "option": ["option_a", "option_b", "option_c", "option_d"],
    "numbered": ["choice1", "choice2", "choice3", "choice4"],
    "from zero": ["ending0", "ending1", "ending2", "ending3"],
    "op": ["opa", "opb", "opc", "opd"],
    "spaced": ["Option A", "Option B", "Option C", "Option D"],
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_choices_key_in_every_form_names_the_same_choice(tmp_path: Path, key: Any) -> None:
    assert golds(tmp_path, "q.json", json.dumps(listed(key))) == GOLD


@pytest.mark.parametrize(
    "choices",
    [
        lambda texts: dict(zip(LETTERS, texts, strict=True)),
        lambda texts: {"text": texts, "label": list(LETTERS)},
        lambda texts: [{"label": label, "text": text} for label, text in zip(LETTERS, texts, strict=True)],
        lambda texts: json.dumps(texts),
        repr,
    ],
    ids=["letters", "text and label", "list of objects", "json in a text", "python in a text"],
)
def test_choices_in_every_form_are_the_same_choices(tmp_path: Path, choices: Any) -> None:
    records = listed(KEYS["letter"], choices)
    items, _ = read(tmp_path, "q.json", json.dumps(records))
    assert [(item.choices, item.gold) for item in items] == [(tuple(q[1]), q[1][q[2]]) for q in QUESTIONS]


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("key", ["letter", "from one", "digits from zero", "text"])
def test_choices_in_columns_are_detected(tmp_path: Path, names: list[str], key: str) -> None:
    records = columns(names, KEYS[key])
    for name, text in (("q.csv", table(records)), ("q.tsv", table(records, "\t")), ("q.json", json.dumps(records))):
        items, rejected = read(tmp_path, name, text)
        assert [item.choices for item in items] == [tuple(texts) for _, texts, _ in QUESTIONS]
        assert ([item.gold for item in items], rejected) == (GOLD, [])


def test_choices_in_columns_named_by_a_setting_follow_its_order(tmp_path: Path) -> None:
    records = columns(["right", "x", "y", "z"], KEYS["letter"])
    assert golds(tmp_path, "q.csv", table(records), choice_fields=("right", "x", "y", "z")) == GOLD


def test_choices_key_can_be_the_name_of_a_column(tmp_path: Path) -> None:
    records = columns(NAMES["option"], lambda place, texts: NAMES["option"][place])
    assert golds(tmp_path, "q.csv", table(records)) == GOLD


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.json", json.dumps({"version": 1, "data": listed()})),
        ("q.json", json.dumps({str(n): record for n, record in enumerate(listed())})),
        ("q.json", "\n".join(map(json.dumps, listed()))),
        ("q.jsonl", "\ufeff" + "\r\n".join(map(json.dumps, listed()))),
        ("Q.CSV", "\ufeff" + table(columns(NAMES["letters"], KEYS["letter"]))),
        ("q.csv", table(columns(NAMES["letters"], KEYS["letter"]), ";")),
        ("q.csv", table(columns(NAMES["letters"], KEYS["letter"]), lineterminator="\n") + "\n\n"),
        (
            "q.tsv",
            "\n".join(["question\tA\tB\tC\tD\tanswer", *('"Ice, ' + f"melted?\tx\ty\tz\t{w}\tD" for w in GOLD)]),
        ),
    ],
    ids=["data", "by id", "lines in json", "bom", "csv bom", "semicolon", "blank lines", "tsv with a single quote"],
)
def test_choices_file_in_every_format_is_read(tmp_path: Path, name: str, content: str) -> None:
    assert golds(tmp_path, name, content) == GOLD
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(content.encode()))
    assert [item.gold for item in read_file(task(packed), packed)[0]] == GOLD


def test_choices_index_that_shows_no_start_is_refused_unless_a_setting_says_it(tmp_path: Path) -> None:
    content = json.dumps(listed()[:1])
    with pytest.raises(DataError, match=r"q\.json, line 1, field answer: 1 is an index(.|\n)*indices_from: one"):
        read(tmp_path, "q.json", content)
    assert golds(tmp_path, "q.json", content, indices_from="zero") == ["mercury"]
    assert golds(tmp_path, "q.json", content, indices_from="one") == ["iron"]


def test_choices_of_digits_are_meant_by_their_text(tmp_path: Path) -> None:
    records = [{"question": f"{n} + 1?", "choices": [1, 2, 3, 4], "answer": n + 1} for n in range(4)]
    assert golds(tmp_path, "q.json", json.dumps(records)) == ["1", "2", "3", "4"]


def test_choices_letter_key_with_option_columns_never_becomes_a_choice(tmp_path: Path) -> None:
    content = table(columns(NAMES["letters"], KEYS["letter"]))
    with pytest.raises(DataError, match=r"keys such as 'B'(.|\n)*set choice_fields: \[A, B, C, D\]"):
        read(tmp_path, "q.csv", content, distractor_fields=("A", "B", "C", "D"))


def test_choices_empty_columns_are_left_out_and_keep_their_letters(tmp_path: Path) -> None:
    content = "question,A,B,C,D,answer\nWhy?,x,,y,z,C\n"
    (item,), _ = read(tmp_path, "q.csv", content)
    assert (item.choices, item.gold) == (("x", "y", "z"), "y")


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ("Why?,x,x,y,z,D", "answer", "'x' more than once"),
        (",w,x,y,z,A", "question", "is empty"),
        ("Why?,w,x,y,z,E", "answer", "'E', which is neither a choice nor one of A, B, C, D"),
        ("Why?,w,x,y,z,", "answer", "is empty"),
        ("Why?,w,,,,A", "A", "other choices are empty"),
        ("Why?,w,x,y", "(line)", "has 4 cells, but the header has 6"),
    ],
)
def test_choices_bad_row_of_a_table_is_quarantined_with_its_line(
    tmp_path: Path, row: str, field: str, reason: str
) -> None:
    content = f'question,A,B,C,D,answer\n"A question\nof two lines",w,x,y,z,B\n{row}\n'
    items, (bad,) = read(tmp_path, "q.csv", content)
    assert [item.gold for item in items] == ["x"]
    assert (bad.line, bad.field) == (4, field)
    assert reason in bad.reason


def test_choices_bad_record_of_a_list_is_quarantined_with_its_line(tmp_path: Path) -> None:
    records = [*listed(), {"question": "q", "choices": ["a", "b"], "answer": "Z"}]
    _, (bad,) = read(tmp_path, "q.json", json.dumps({"data": records}, indent=1))
    lines = json.dumps({"data": records}, indent=1).splitlines()
    assert lines[bad.line - 1].strip() == "{"
    assert '"q"' in lines[bad.line]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("q.csv", "question,A,B,answer\nCaf\xe9?,x,y,A\n".encode("latin-1"), "line 2 has the byte 0xe9"),
        ("q.json", "[]".encode("utf-16"), "is UTF-16"),
        ("q.jsonl", gzip.compress(b"{}", mtime=0), "is gzip-compressed, which its name does not say"),
        ("q.csv", b'question,A,B,answer\n"Why?,x,y,A\n', "line 2"),
        ("q.csv", b"question,A,A,answer\nWhy?,x,y,A\n", "names a column twice: 'A'"),
        ("q.csv", b"just a text\n", "has no comma, semicolon or tab"),
        ("q.csv", b"question,A,B,answer\n", "is empty"),
        ("q.json", b'{"question": "q"}', "has no list of records but: question"),
        ("q.json", b"[{]", "is not JSON"),
        ("q.json", b"[]", "is empty"),
        ("q.csv", b"question,A,B,option_a,option_b,answer\nWhy?,x,y,z,w,A\n", "several series of choices"),
    ],
)
def test_choices_unusable_file_is_refused_with_its_cause(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        read(tmp_path, name, content)


def test_choices_file_without_usable_record_names_three_reasons_and_the_fields(tmp_path: Path) -> None:
    content = "frage,A,B,answer\nWhy?,x,y,A\nWhy?,x,y\n"
    with pytest.raises(DataError) as caught:
        read(tmp_path, "q.csv", content)
    assert "line 2, field question: is missing" in caught.value.problem
    assert "line 3, field (line): has 3 cells" in caught.value.problem
    assert caught.value.problem.endswith("Its fields: frage, A, B, answer")


def read(folder: Path, name: str, content: str | bytes, **settings: Any) -> tuple[list[Item], list[BadRecord]]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_file(task(path, **settings), path)


def golds(folder: Path, name: str, content: str, **settings: Any) -> list[str]:
    items, rejected = read(folder, name, content, **settings)
    assert not rejected
    return [item.gold for item in items]


def task(path: Path, **settings: Any) -> MultipleChoiceTask:
    return MultipleChoiceTask(name="asked", group="domain", path=str(path), **settings)
