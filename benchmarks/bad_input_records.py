"""Files of documents and questions in unusual containers, encodings and layouts for bad_inputs.py."""

import csv
import gzip
import io
import json
import os
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bad_input_damage import ODD_VALUES, WORDS, Loss, Result, json_lines, sentence
from benchmarks.bad_input_files import require_counted
from mixcpt.checks import questions, sources
from mixcpt.checks.findings import Check, Finding, Subject
from mixcpt.config import AdaptConfig, CurationConfig, EvaluateConfig, FilesSource, MultipleChoiceTask
from mixcpt.curation.pipeline import clean
from mixcpt.curation.sources import open_sources
from mixcpt.evaluate.asking.files import read_file

_LETTERS = "ABCD"
_NUM_RECORDS = 12
_UNICODE_BREAKS = ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\n")


def _findings(subject: Subject, check: Check) -> tuple[list[Finding], list[Finding]]:
    """Return problems and warnings."""
    found = list(check(subject))
    return [finding for finding in found if not finding.is_warning], [
        finding for finding in found if finding.is_warning
    ]


def use_documents(folder: Path, paths: Sequence[str], num_records: int = 0) -> Result:
    """Check a source of documents and curate it, with undamaged documents in a second source."""
    whole = folder / "whole.jsonl"
    rng = random.Random(0)
    whole.write_bytes(json_lines([{"text": f"{sentence(rng)} Number {number}."} for number in range(_NUM_RECORDS)]))
    curation = CurationConfig(
        sources=(
            FilesSource(name="whole", pool="domain", paths=(str(whole),)),
            FilesSource(name="records", pool="general", paths=tuple(paths)),
        ),
        heldout_fraction=0.2,
    )
    subject = Subject(AdaptConfig().model_copy(update={"curation": curation}), None)
    problems, warned = _findings(subject, sources.check)
    if problems:
        return "refused", str(problems[0])
    corpus = clean(curation, open_sources(curation), seed=0)
    corpus.write(folder)
    require_counted(corpus, num_records)
    if rejected := [*(str(defect) for _, defect in corpus.quarantined), *map(str, corpus.removed)]:
        return "set aside", rejected[0]
    return ("warned", str(warned[0])) if warned else ("used", "")


def use_questions(path: Path, num_records: int = 0) -> Result:
    """Check a file of questions and read it."""
    task = MultipleChoiceTask(name="asked", group="domain", path=str(path))
    evaluate = EvaluateConfig().model_copy(update={"tasks": (task,), "headline_domain": "asked"})
    subject = Subject(AdaptConfig().model_copy(update={"evaluate": evaluate}), None)
    own = f"{path}"
    problems, warned = _findings(subject, questions.check)
    if problems := [problem for problem in problems if own in str(problem) or "tasks[0]" in str(problem)]:
        return "refused", str(problems[0])
    items, rejected = read_file(task, path)
    if len(items) + len(rejected) < num_records:
        raise Loss(f"{num_records} records, {len(items)} items and {len(rejected)} set aside")
    if any(item.gold not in item.choices or not item.gold.strip() for item in items):
        raise Loss("a right answer is empty or none of the choices")
    if rejected:
        return "set aside", str(rejected[0])
    own_warnings = [str(warning) for warning in warned if "tasks[0]" in str(warning)]
    return ("warned", own_warnings[0]) if own_warnings else ("used", "")


def _document(number: int, rng: random.Random) -> dict[str, Any]:
    return {"id": f"record-{number}", "text": f"{sentence(rng)} Number {number}."}


def _question(number: int, rng: random.Random, form: str = "") -> dict[str, Any]:
    form = form or rng.choice(("list", "labelled", "columns"))
    options = [f"{word} {number}" for word in rng.sample(WORDS, 4)]
    labelled = dict(zip(_LETTERS, options, strict=True))
    choices = {"choices": options if form == "list" else labelled} if form != "columns" else labelled
    return {"question": f"{sentence(rng)}?", **choices, "answer": rng.choice(_LETTERS)}


def _records(rng: random.Random) -> tuple[list[Any], bool]:
    """Return records, and whether they are questions."""
    are_questions = rng.random() < 0.5
    form = rng.choice(("list", "labelled", "columns"))
    make: Callable[[int], Any] = lambda number: (  # noqa: E731
        _question(number, rng, form) if are_questions else _document(number, rng)
    )
    return [make(number) for number in range(_NUM_RECORDS)], are_questions


def _use(folder: Path, path: Path, are_questions: bool, num_records: int = 0) -> Result:
    return use_questions(path, num_records) if are_questions else use_documents(folder, [str(path)], num_records)


def _table(records: Sequence[dict[str, Any]], delimiter: str, rng: random.Random) -> str:
    """Return a table with a random style of quotes and line breaks."""
    text = io.StringIO()
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))
    columns = list(dict.fromkeys(name for record in records for name in record))
    breaks = rng.choice(("\n", "\r\n", "\r"))
    writer = csv.DictWriter(text, columns, delimiter=delimiter, quoting=quoting, lineterminator=breaks)
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def question_keys(folder: Path, rng: random.Random) -> Result:
    """Read questions whose keys are letters, indices, texts, out of range or missing, in every format and form."""
    form = rng.choice(("list", "labelled", "columns"))
    records = [_question(number, rng, form) for number in range(_NUM_RECORDS)]
    style = rng.choice(("lower", "bracket", "word", "text", "index0", "index1", "digits", "floats", "mixed"))
    for number, record in enumerate(records):
        letter = record["answer"]
        place = _LETTERS.index(letter)
        options = record.get("choices", record)
        text = options[place] if isinstance(options, list) else options[letter]
        written = {
            **{"lower": letter.lower(), "bracket": f"({letter})", "word": f"Option {letter}:", "text": text},
            **{"index0": place, "index1": place + 1, "digits": str(place), "floats": float(place)},
            "mixed": (letter, place, text)[number % 3],
        }
        record["answer"] = written[style]
        if rng.random() < 0.25:
            record["answer"] = rng.choice(
                (99, -1, "Z", "", None, True, [letter], {"key": letter}, "A and B", "E", 4, 1e9)
            )
        if rng.random() < 0.1:
            del record["answer"]
    kind = rng.choice(("jsonl", "json", "csv", "tsv"))
    path = folder / f"questions.{kind}{rng.choice(('', '', '.gz'))}"
    content = _written(records, kind, rng).encode()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return use_questions(path, len(records))


def _written(records: Sequence[dict[str, Any]], kind: str, rng: random.Random) -> str:
    if kind == "jsonl":
        return json_lines(list(records)).decode()
    if kind == "json":
        return json.dumps(rng.choice((records, {"data": records}, {"version": 1, "rows": records})), indent=1)
    return _table(records, "," if kind == "csv" else "\t", rng)


def tables(folder: Path, rng: random.Random) -> Result:
    """Read questions from a table with odd quotes, delimiters, headers, NUL characters and cells."""
    records = [_question(number, rng, "columns") for number in range(_NUM_RECORDS)]
    for record in records:
        if rng.random() < 0.4:
            addition = rng.choice(('"', 'a "quoted" word', '""', "\n", "\r\n", ",", "\t", ";", "'", "\\", "\x00", "|"))
            record[rng.choice(("question", *_LETTERS))] += addition
    kind = rng.choice(("csv", "tsv"))
    text = _table(records, rng.choice((",", "\t", ";", "|", ":")) if rng.random() < 0.4 else ",\t"[kind == "tsv"], rng)
    lines = text.split("\n")
    place = rng.randrange(len(lines))
    changes: Sequence[Callable[[], str]] = (
        lambda: text,
        lambda: text.replace('"', "", 1),
        lambda: text.replace('"', "'"),
        lambda: text[: rng.randrange(len(text))],
        lambda: "\n".join([*lines[:place], lines[place] + ',"', *lines[place + 1 :]]),
        lambda: "\n".join([*lines[:place], lines[place] + "\x00", *lines[place + 1 :]]),
        lambda: "\n".join(lines[1:]),
        lambda: lines[0],
        lambda: "\n\n" + text,
        lambda: text.replace("question", "answer", 1),
        lambda: text.replace("question", "", 1),
        lambda: text.replace("\n", rng.choice(_UNICODE_BREAKS)),
        lambda: "\ufeff" + text,
        lambda: "sep=,\n" + text,
    )
    path = folder / f"questions.{kind}"
    path.write_bytes(rng.choice(changes)().encode())
    return use_questions(path)


def json_documents(folder: Path, rng: random.Random) -> Result:
    """Read records from JSON that is nested, of another top level, or not quite JSON."""
    records, are_questions = _records(rng)
    text = json.dumps(records)
    values: Sequence[Any] = (
        *(records, {"data": records}, {"a": records, "b": records}, {str(i): r for i, r in enumerate(records)}),
        *({"data": {"rows": records}}, [records], records[0], [*records, None, 7, "x", []], {"data": []}, []),
        *(rng.choice(ODD_VALUES), {"train": records[:6], "test": records[6:]}, [json.dumps(r) for r in records]),
    )
    texts: Sequence[Callable[[], str]] = (
        lambda: text + text,
        lambda: text[:-1] + ",]",
        lambda: "// records\n" + text,
        lambda: text.replace('"', "'"),
        lambda: text.replace("Number", "\\ud800"),
        lambda: text.replace('"id"', '"text"').replace('"question"', '"A"'),
        lambda: rng.choice("[{") * 100_000,
        lambda: "[" * 900 + "]" * 900,
        lambda: '[{"text": NaN}, {"text": Infinity}]',
        lambda: f'[{{"id": {"9" * 5000}, "text": "one"}}]',
        lambda: "\n".join(json.dumps(record, indent=1) for record in records),
        lambda: ",\n".join(map(json.dumps, records)),
        lambda: "\x1e" + "\n\x1e".join(map(json.dumps, records)),
        lambda: "var data = " + text,
    )
    if rng.random() < 0.5:
        content = json.dumps(rng.choice(values), indent=rng.choice((None, 1)))
    else:
        content = rng.choice(texts)()
    path = folder / f"records.{rng.choice(('json', 'json', 'jsonl'))}"
    path.write_text(content, encoding="utf-8", errors="surrogatepass")
    return _use(folder, path, are_questions)


def containers(folder: Path, rng: random.Random) -> Result:
    """Read gzip files that are cut, damaged, of the wrong name, empty, repeated or followed by something else."""
    records, are_questions = _records(rng)
    content = json_lines(records)
    packed = gzip.compress(content)
    place = rng.randrange(len(packed))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("records.jsonl", content)
    forms = (
        *(packed[:place], packed[:-8] + b"\x00\x00\x00\x00" + packed[-4:], packed[:-4] + b"\xff\xff\xff\xff"),
        *(content, packed + packed, packed + b"\x00" * 64, packed + b"rest of a file", gzip.compress(packed)),
        *(gzip.compress(b""), b"", packed[:10], packed[:place] + rng.randbytes(4) + packed[place + 4 :]),
        *(archive.getvalue(), packed[:2] + b"\x00" + packed[3:], packed[:3] + rng.randbytes(1) + packed[4:], packed),
    )
    suffix = rng.choice((".gz", ".gz", "", ".GZ", ".gz.gz", ".zip"))
    path = folder / f"records.{rng.choice(('jsonl', 'json', 'JSONL', 'csv'))}{suffix}"
    path.write_bytes(rng.choice(forms))
    return _use(folder, path, are_questions)


def encodings(folder: Path, rng: random.Random) -> Result:
    """Read files of other encodings, with byte order marks, invalid bytes, NUL characters and unusual line breaks."""
    records, are_questions = _records(rng)
    kind = rng.choice(("jsonl", "json", "csv") if are_questions else ("jsonl", "json", "txt", "md"))
    field = "question" if are_questions else "text"
    for record in records:
        record[field] += rng.choice(
            (" Größe – “fin”", " 漢字", "\ufeff", *_UNICODE_BREAKS, " \U0001f642", "\x00", "\x07")
        )
    if kind in ("txt", "md"):
        text = "\n\n".join(record[field] for record in records)
    elif kind == "json":
        text = json.dumps(records, ensure_ascii=rng.random() < 0.5)
    elif kind == "csv":
        text = _table([{name: str(value) for name, value in record.items()} for record in records], ",", rng)
    else:
        text = json_lines(records).decode()
    codec = rng.choice(
        (
            *("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "latin-1"),
            *("cp1252", "shift_jis", "gb18030", "koi8-r", "cp037", "utf-7"),
        )
    )
    content = text.encode(codec, "replace")
    place = rng.randrange(len(content))
    change = rng.randrange(6)
    if change == 0:
        content = content[:place] + rng.choice((b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88")) + content[place:]
    elif change == 1:
        content = content[:place] + b"\xef\xbb\xbf" + content[place:]
    elif change == 2:
        content = content.replace(b"\n", rng.choice((b"\r", b"\r\n", b"\n\r", b"\x0b")))
    path = folder / f"records.{kind}"
    path.write_bytes(content)
    return _use(folder, path, are_questions)


def long_lines(folder: Path, rng: random.Random) -> Result:
    """Read a record of some megabytes, very deep or with a very long key, and files of very many short lines."""
    records, are_questions = _records(rng)
    size = rng.choice((300_000, 2_000_000, 5_000_000))
    field = "question" if are_questions else "text"
    long_texts: Sequence[Callable[[], str]] = (
        lambda: sentence(rng) * (size // 100),
        lambda: "x" * size,
        lambda: " " * size + "end",
        lambda: "漢" * (size // 3),
        lambda: "\\" * size,
        lambda: "a\u0301" * (size // 3),
        lambda: "Human: " * (size // 7),
    )
    change = rng.randrange(7)
    if change < 3:
        records[3][field] = rng.choice(long_texts)()
    elif change == 3:
        records[3]["k" * size] = "long name"
    lines = json_lines(records).decode().splitlines()
    if change == 4:
        lines[3] = rng.choice(("[" * size, '{"text": "' + "x" * size, "9" * size, '{"a":' * (size // 100), '"' * size))
    elif change == 5:
        lines = [*lines, *[""] * (size // 10)]
    elif change == 6:
        lines = [*lines, *["{}"] * (size // 100)]
    path = folder / "records.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return _use(folder, path, are_questions, num_records=len(records))


def paths(folder: Path, rng: random.Random) -> Result:
    """Read from folders named like files, loops of links, dangling links, pipes, and names of unusual characters."""
    records, are_questions = _records(rng)
    content = json_lines(records)
    place = folder / "place"
    place.mkdir()
    (place / "whole.jsonl").write_bytes(content)
    names = (
        "line\nbreak.jsonl",
        "\U0001f642.jsonl",
        "x" * 240 + ".jsonl",
        "-rf.jsonl",
        "a b'\"$(x).jsonl",
        "[ab].jsonl",
    )
    name = rng.choice((*names, "*.jsonl", "?.jsonl", "\x1b[31m.jsonl", "\u202ecod.jsonl", "..jsonl", "é.jsonl"))
    file = place / name
    change = rng.randrange(12)
    if change < 4:
        file.write_bytes(content)
    elif change == 4:
        file.mkdir()
    elif change == 5:
        file.symlink_to(place)
    elif change == 6:
        file.symlink_to(file)
    elif change == 7:
        file.symlink_to(place / "absent.jsonl")
    elif change == 8:
        os.mkfifo(file)
    elif change == 9:
        raw = os.fsencode(place) + b"/\xff\xfe.jsonl"
        Path(os.fsdecode(raw)).write_bytes(content)
        file = Path(os.fsdecode(raw))
    elif change == 10:
        (place / "deep").mkdir()
        (place / "deep" / "loop").symlink_to(place)
        (place / "deep" / "dangling.jsonl").symlink_to("absent")
    else:
        odd = (
            "x" * 300 + ".jsonl",
            "",
            " ",
            "\x00.jsonl",
            "~absent-user/a.jsonl",
            "a/" * 3000,
            "/dev/null",
            "/proc/self/mem",
        )
        file = Path(rng.choice(odd))
    asked = rng.choice((str(file), str(file), str(place), str(place / "*"), str(place / "**" / "*.jsonl")))
    return use_questions(Path(asked)) if are_questions else use_documents(folder, [asked])
