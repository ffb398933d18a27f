"""`mixcpt init` for a user's own files: every usual form gives a file that can run, with reasons for its values."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from mixcpt.cli import app
from mixcpt.config import AdaptConfig, load_any, load_config
from mixcpt.store.models import ModelRef

WORDS = "The heron stands in the river and waits for a fish near the old mill. "


@pytest.fixture
def model(readable_model: ModelRef) -> ModelRef:
    return readable_model


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs `mixcpt init` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["init", *map(str, arguments)])


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, records[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(records)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def documents(form: str, folder: Path) -> str:
    """Write documents in some form and return their path."""
    texts = [f"# Note {number}\n\n{WORDS * 5}" for number in range(30)]
    if form == "markdown folder":
        for number, text in enumerate(texts):
            (folder / "notes" / "deep").mkdir(parents=True, exist_ok=True)
            (folder / "notes" / "deep" / f"{number}.md").write_text(text)
        return "notes"
    if form == "one txt":
        (folder / "book.txt").write_text("\n\n".join(texts))
        return "book.txt"
    return str(write_records(folder / f"book{form}", [{"content": text, "title": "a"} for text in texts]).name)


@pytest.mark.parametrize("form", ["markdown folder", "one txt", ".jsonl", ".json"])
def test_documents_in_every_form_give_a_run_that_measures_forgetting(
    init: Callable[..., Result], tmp_path: Path, model: ModelRef, form: str
) -> None:
    done = init("my.yaml", "--documents", documents(form, tmp_path), "--model", model.path)
    assert done.exit_code == 0, done.output
    config = load_config("my.yaml")
    groups = {task.name: task.group for task in config.evaluate.tasks}
    assert groups[config.evaluate.headline_domain] == "domain"
    assert groups[config.evaluate.headline_general] == "general"
    text = Path("my.yaml").read_text()
    for key in ("total_tokens", "row_tokens", "learning_rate", "batch_rows", "precision", "headline_general"):
        before = text[: text.index(f" {key}:")].splitlines()
        assert any(line.lstrip().startswith("# ->") for line in before[-3:]), key
    checked = CliRunner().invoke(app, ["validate", "my.yaml"])
    assert checked.exit_code == 0, checked.output


SAMPLES = {
    "prompt and response": ({"prompt": "who?", "response": "Ada"}, {}),
    "alpaca": (
        {"instruction": "who?", "input": "", "output": "Ada"},
        {"prompt": "instruction", "response": "output"},
    ),
    "dolly": (
        {"instruction": "who?", "context": "", "response": "Ada", "category": "x"},
        {"prompt": "instruction", "input": "context"},
    ),
    "question and answer": ({"Question": "who?", "Answer": "Ada"}, {"prompt": "Question", "response": "Answer"}),
    "input and output": ({"input": "who?", "output": "Ada"}, {"prompt": "input", "response": "output"}),
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("form", SAMPLES)
def test_fields_of_instructions_are_read_from_the_first_record(
    init: Callable[..., Result], tmp_path: Path, model: ModelRef, form: str, suffix: str
) -> None:
    record, fields = SAMPLES[form]
    path = tmp_path / f"general{suffix}"
    if suffix == ".parquet":
        pd = pytest.importorskip("pandas")
        pd.DataFrame([record] * 8).to_parquet(path)
    else:
        write_records(path, [record] * 8)
    book = documents(".jsonl", tmp_path)
    done = init("my.yaml", "--documents", book, "--instructions", path, "--model", model.path)
    assert done.exit_code == 0, done.output
    _, source = load_config("my.yaml").curation.sources
    found = source.model_dump()["fields"]
    assert {name: found[name] for name in fields} == fields
    expected = {"prompt": "prompt", "response": "response"} | fields
    assert (found["prompt"], found["response"]) == (expected["prompt"], expected["response"])


@pytest.mark.parametrize(("number", "is_measured"), [(120, True), (99, False)])
def test_enough_instructions_are_held_out_and_measured(
    init: Callable[..., Result], tmp_path: Path, model: ModelRef, number: int, is_measured: bool
) -> None:
    samples = [{"instruction": f"who is {index}?", "output": "Ada"} for index in range(number)]
    path = write_records(tmp_path / "general.jsonl", samples)
    book = documents(".jsonl", tmp_path)
    done = init("my.yaml", "--documents", book, "--instructions", path, "--model", model.path)
    assert done.exit_code == 0, done.output
    config = load_config("my.yaml")
    tasks = {task.name: task for task in config.evaluate.tasks}
    assert bool(config.curation.heldout_instructions) == is_measured
    assert ("general_instructions" in tasks) == is_measured
    assert config.evaluate.headline_general == "general_text"
    assert "rejected:" not in Path("my.yaml").read_text()  # only fields that the file names


@pytest.mark.parametrize(("number", "paragraphs", "is_enough"), [(25, 30, True), (7, 20, True), (25, 1, False)])
def test_few_documents_hold_out_enough_passages_for_an_interval_if_they_can(
    init: Callable[..., Result], tmp_path: Path, model: ModelRef, number: int, paragraphs: int, is_enough: bool
) -> None:
    (tmp_path / "notes").mkdir()
    for note in range(number):
        text = "\n\n".join(f"Part {part} of {note}. {WORDS * 3}" for part in range(paragraphs))
        (tmp_path / "notes" / f"{note}.md").write_text(text)
    done = init("my.yaml", "--documents", "notes", "--model", model.path)
    assert done.exit_code == 0, done.output
    text = Path("my.yaml").read_text()
    checked = CliRunner().invoke(app, ["validate", "my.yaml"])
    assert checked.exit_code == 0, checked.output
    assert ("of held-out text; fewer than 10" in checked.output) != is_enough
    if is_enough:
        assert re.search(r"# -> \d\d+ passages[a-z0-9 ]* are kept out of training; .*\n +heldout_fraction: 0", text)
        assert f"curation.heldout_fraction is {load_config('my.yaml').curation.heldout_fraction:g}: " in done.output
    else:
        assert "heldout_fraction" not in text
        assert "fewer than 10 have no interval; add documents, or questions" in done.output


def test_dialogues_of_preferences_are_recognised(init: Callable[..., Result], tmp_path: Path, model: ModelRef) -> None:
    pair = {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: no"}
    pairs = write_records(tmp_path / "pairs.jsonl", [pair])
    book = documents(".jsonl", tmp_path)
    done = init("my.yaml", "--documents", book, "--preferences", pairs, "--model", model.path)
    assert done.exit_code == 0, done.output
    source = load_config("my.yaml").curation.sources[1]
    assert source.model_dump()["dialogue"] == "human_assistant"


@pytest.mark.parametrize(
    "record", [{"messages": [{"role": "user", "content": "hi"}]}, {"a": 1}, {"prompt": "who?", "answer": ["Ada"]}]
)
def test_instructions_without_usable_fields_are_refused_with_the_fields_that_are_there(
    init: Callable[..., Result], tmp_path: Path, model: ModelRef, record: dict[str, Any]
) -> None:
    path = write_records(tmp_path / "general.jsonl", [record])
    book = documents(".jsonl", tmp_path)
    done = init("my.yaml", "--documents", book, "--instructions", path, "--model", model.path)
    assert done.exit_code == 2
    assert "general.jsonl: found no " in done.output
    assert all(name in done.output for name in record)
    assert not Path("my.yaml").exists()


@pytest.mark.parametrize(
    ("option", "record", "expected"),
    [
        (
            "--documents",
            {"id": "d0", "text": ["A", "B"]},
            "found no text for text of pool domain; in its first record, ",
        ),
        ("--documents", {"id": "d0"}, "found no field for text of pool domain; its first record has id"),
        ("--documents", {"id": "d0", "content": 3}, "'content' is a number"),
        (
            "--preferences",
            {"prompt": "Q", "chosen": [{}], "rejected": [{}]},
            "'chosen' is a list, 'rejected' is a list",
        ),
        ("--instructions", {"prompt": "Q", "response": {"a": 1}}, "'response' is an object"),
    ],
)
def test_fields_with_the_right_name_and_no_text_are_refused_with_what_they_hold(
    init: Callable[..., Result],
    tmp_path: Path,
    model: ModelRef,
    option: str,
    record: dict[str, Any],
    expected: str,
) -> None:
    path = write_records(tmp_path / "records.jsonl", [record])
    others = () if option == "--documents" else ("--documents", documents(".jsonl", tmp_path))
    done = init("my.yaml", *others, option, path, "--model", model.path)
    assert done.exit_code == 2
    assert expected in done.output.replace("\n", " ")
    assert not Path("my.yaml").exists()


QUESTIONS: dict[str, dict[str, Any]] = {
    "list": {"question": "who?", "choices": ["Ada", "Bo"], "answer": "A"},
    "renamed": {"Question": "who?", "options": ["Ada", "Bo"], "answerKey": "B"},
    "letters": {"question": "who?", "choices": {"A": "Ada", "B": "Bo"}, "answer": "A"},
    "columns": {"question": "who?", "A": "Ada", "B": "Bo", "answer": "A"},
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv"])
@pytest.mark.parametrize("form", QUESTIONS)
@pytest.mark.parametrize("count", [4, 40])
def test_questions_become_a_domain_task_that_is_the_headline_if_there_are_enough(
    init: Callable[..., Result], tmp_path: Path, model: ModelRef, form: str, suffix: str, count: int
) -> None:
    if suffix in (".csv", ".tsv") and form != "columns":
        pytest.skip("a table has one text per cell")
    records = [{**QUESTIONS[form], "id": str(number)} for number in range(count)]
    questions = write_records(tmp_path / f"quiz{suffix}", records)
    book = documents(".jsonl", tmp_path)
    done = init("my.yaml", "--documents", book, "--questions", questions, "--model", model.path)
    assert done.exit_code == 0, done.output
    evaluate = load_config("my.yaml").evaluate
    assert evaluate.headline_domain == ("quiz" if count == 40 else "domain_bits_per_byte")
    task = evaluate.tasks[0].model_dump()
    assert (task["kind"], task["group"], task["path"]) == ("multiple_choice", "domain", str(questions))
    assert CliRunner().invoke(app, ["validate", "my.yaml"]).exit_code == 0


def test_benchmarks_become_general_tasks(init: Callable[..., Result], tmp_path: Path, model: ModelRef) -> None:
    book = documents(".jsonl", tmp_path)
    done = init("my.yaml", "--documents", book, "--benchmark", "sciq", "--benchmark", "arc_easy", "--model",
                model.path)  # fmt: skip
    assert done.exit_code == 0, done.output
    tasks = [task for task in load_config("my.yaml").evaluate.tasks if task.kind == "benchmark"]
    assert [(task.name, task.group) for task in tasks] == [("sciq", "general"), ("arc_easy", "general")]


@pytest.mark.parametrize(("study", "key"), [("compare", "contenders"), ("advise", "learning_rate")])
def test_studies_are_accepted_by_their_commands(
    init: Callable[..., Result], tmp_path: Path, model: ModelRef, study: str, key: str
) -> None:
    book = documents(".jsonl", tmp_path)
    general = write_records(tmp_path / "general.jsonl", [SAMPLES["alpaca"][0]] * 20)
    files = ("--documents", book, "--instructions", general, "--model", model.path)
    done = init("study.yaml", f"--{study}", *files)
    assert done.exit_code == 0, done.output
    assert init("run.yaml", *files).exit_code == 0
    written = load_any("study.yaml").model_dump()
    run = load_config("run.yaml")
    study_run = AdaptConfig.model_validate(written["settings"])
    assert study_run.model_copy(update={"name": run.name}) == run
    assert study_run.base.chat_template == "plain"
    assert key in written
    checked = CliRunner().invoke(app, ["validate", "study.yaml"])
    assert checked.exit_code == 0, checked.output
    keys = [line.split()[1] for line in checked.output.splitlines() if line.startswith("warning: ")]
    assert keys and all(key.startswith("settings.") for key in keys), keys


def test_study_without_general_text_is_refused(init: Callable[..., Result], tmp_path: Path, model: ModelRef) -> None:
    done = init("s.yaml", "--compare", "--documents", documents(".jsonl", tmp_path), "--model", model.path)
    assert done.exit_code == 2
    assert "--compare needs general text" in done.output


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("base", "base-run"),
        ("seconds", "seconds-run"),
        ("my notes", "my-notes"),
        ("_x", "x"),
        ("é", "run"),
        ("a.b", "a.b"),
    ],
)
def test_name_of_the_run_is_valid_and_not_reserved(
    init: Callable[..., Result], tmp_path: Path, model: ModelRef, stem: str, name: str
) -> None:
    done = init(f"{stem}.yaml", "--documents", documents(".jsonl", tmp_path), "--model", model.path)
    assert done.exit_code == 0, done.output
    assert load_config(f"{stem}.yaml").name == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--documents", "none"), "--documents needs --model"),
        (("--documents", "none", "--model", "."), "--documents: there is no file 'none'"),
        (("--documents", "*.md", "--model", "."), "--documents: no file matches *.md"),
        (("--documents", "a.txt", "--model", "./none"), "--model: there is no folder ./none"),
        (("--documents", "a.txt", "--model", ".", "--instructions", "b"), "--instructions: there is no file 'b'"),
        (("--documents", "a.txt", "--model", ".", "--questions", "q.csv"), "--questions: there is no file q.csv"),
        (("--documents", "a.txt", "--model", ".", "--questions", "a.txt"), "--questions a.txt: unknown suffix '.txt'"),
        (("--documents", "a.txt", "--model", ".", "--questions", "e.json"), "--questions e.json has no records"),
        (("--documents", "a.txt", "--model", ".", "--questions", "b.json"), "--questions b.json cannot be read"),
        (("--documents", "a.txt", "--model", ".", "--device", "h999"), "--device 'h999' is unknown"),
        (("--model", "."), "--model needs --documents"),
        (("--questions", "q.csv"), "--questions needs --documents"),
        (("--compare",), "--compare needs --documents"),
    ],
)
def test_wrong_options_are_refused_by_name(
    init: Callable[..., Result], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "a.txt").write_text(WORDS)
    (tmp_path / "e.json").write_text("[]")
    (tmp_path / "b.json").write_text("[{")
    done = init("my.yaml", *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert not Path("my.yaml").exists()


def test_store_is_written_into_the_file(init: Callable[..., Result], tmp_path: Path) -> None:
    assert init("demo.yaml", "--store", "./elsewhere").exit_code == 0
    assert yaml.safe_load(Path("demo.yaml").read_text())["runtime"]["store"] == "./elsewhere"
