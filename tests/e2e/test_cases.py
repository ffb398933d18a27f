"""Inputs of public bug reports, by the commands that a user gives: each is used, or refused with a remedy that works.

`pytest -rA tests/e2e/test_cases.py | grep '^|'` prints a table of all cases.
"""

import copy
import json
import re
import runpy
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from mixcpt.align.chat import encode_chat, load_chat_tokenizer
from mixcpt.cli import app
from mixcpt.config import FilesSource
from mixcpt.curation.readers import read_file
from mixcpt.curation.records import RawRecord
from mixcpt.mixture.tokens import PlainText, TextTokenizer
from mixcpt.store.models import ModelRef, load_tokenizer

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
DATA = CASES / "data"
WHOLE = CASES.parent / "data" / "models" / "TinyStories-656K"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases (../shared/cases) are not on this machine")

Config = dict[str, Any]
Remedy = Callable[[Config], None]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the models of the cases, written by their own script."""
    folder = tmp_path_factory.mktemp("case-models")
    script = runpy.run_path(str(CASES / "make_models.py"))
    for name in [*script["COPIES"], *script["RANDOM"]]:
        script["write"](folder, name)
    return folder


def write_lines(path: Path, records: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Sound files of every pool."""
    folder = tmp_path_factory.mktemp("case-files")
    story = "The lighthouse at Corran {0} was built in 18{0}. Its keeper wrote down every storm of the year."
    return {
        "domain": write_lines(folder / "docs.jsonl", [{"text": story.format(n)} for n in range(10, 70)]),
        "instructions": write_lines(
            folder / "ins.jsonl",
            [{"prompt": f"Where is lamp {n}?", "response": f"Lamp {n} is on the table."} for n in range(40)],
        ),
        "preferences": write_lines(
            folder / "prf.jsonl",
            [{"prompt": f"Name pet {n}.", "chosen": f"Pet {n} is Bella.", "rejected": "Who cares?"} for n in range(40)],
        ),
    }


def mixcpt(*arguments: str | Path) -> Result:
    """Run a command in this process; anything but an exit with a code fails the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def starter(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Run on sound files, as `mixcpt init` writes it."""
    path = tmp_path_factory.mktemp("starter") / "case.yaml"
    options = [("--documents", files["domain"]), ("--instructions", files["instructions"])]
    options += [("--preferences", files["preferences"]), ("--model", str(WHOLE)), ("--device", "cpu")]
    done = mixcpt("init", path, *(part for option in options for part in option))
    assert done.exit_code == 0, done.output
    written: Config = yaml.safe_load(path.read_text())
    return written


@pytest.fixture
def config(starter: Config, tmp_path: Path) -> Config:
    fresh = copy.deepcopy(starter)
    fresh["runtime"] = {"store": str(tmp_path / "store")}
    return fresh


def validate(config: Config, folder: Path) -> Result:
    path = folder / "case.yaml"
    path.write_text(yaml.safe_dump(config))
    return mixcpt("validate", path)


def show(row: int, name: str, done: Result) -> None:
    """Print the row of a case: its command and the first line of the outcome."""
    lines = [line.strip() for line in done.output.splitlines() if not line.startswith(("checking ", "error: "))]
    problem = " ".join(filter(None, lines[:2]))
    print(f"| {row} | `validate` with {name} | {done.exit_code}: {re.sub(r'/[^ :]*/', '', problem)[:240]} |")


def source_of(config: Config, pool: str) -> Config:
    return next(source for source in config["curation"]["sources"] if source["pool"] == pool)  # type: ignore[no-any-return]


def use_template(config: Config) -> None:
    config["base"]["chat_template"] = "plain"


def use_sound_model(config: Config) -> None:
    config["base"]["model"] = str(WHOLE)


def load_file_again(config: Config) -> None:
    shutil.copy(WHOLE / "model.safetensors", config["base"]["model"])


def name_tokens(*roles: str) -> Remedy:
    def change(config: Config) -> None:
        path = Path(config["base"]["model"]) / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | dict.fromkeys(roles, "<|end_story|>")))

    return change


def select_none(pool: str) -> Remedy:
    def change(config: Config) -> None:
        config["align"]["selection"][f"num_{pool}"] = 0

    return change


def rename_text(config: Config) -> None:
    source_of(config, "domain")["fields"] = {"text": "content"}


def name_dialogue(config: Config) -> None:
    source_of(config, "preferences")["dialogue"] = "human_assistant"


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Input that `validate` refuses."""

    row: int
    name: str
    """Model of the cases, or file of their data."""
    pool: str = ""
    """Pool of the file; empty for a model."""
    says: tuple[str, ...]
    """Parts of the message: key, place, what is there."""
    remedy: Remedy | None = None
    """Change that the message asks for; None if it is another file."""


REFUSED = (
    Refused(
        row=4,
        name="zh.jsonl",
        pool="domain",
        says=("curation.sources[0]: the tokenizer of base.model cannot represent 97", "% of the characters of domain"),
    ),
    Refused(
        row=5,
        name="pad_in_config",
        says=("base.model", "2048 rows", "pad_token '[PAD]' has id 2048", "tokenizer_config.json"),
        remedy=name_tokens("pad_token"),
    ),
    Refused(
        row=5,
        name="no_special_tokens",
        says=("base.model", "2048 rows", "bos_token '<s>' has id 2048, eos_token '</s>' has id 2049"),
        remedy=name_tokens("bos_token", "eos_token"),
    ),
    Refused(
        row=11,
        name="template_syntax",
        says=("base.chat_template", "tokenizer_config.json", "unexpected '}'", "line 1"),
        remedy=use_template,
    ),
    Refused(
        row=11,
        name="template_needs_system",
        says=("base.chat_template", "needs a system message", "A system message is required", "line 1"),
        remedy=use_template,
    ),
    Refused(
        row=11,
        name="template_drops_assistant",
        says=("base.chat_template", "drops the assistant turn", "USER ping"),
        remedy=use_template,
    ),
    Refused(
        row=14,
        name="truncated",
        says=("base.model", "model.safetensors is cut off", "2624000", "1310916"),
        remedy=load_file_again,
    ),
    Refused(
        row=14,
        name="lfs_pointer",
        says=("base.model", "model.safetensors is a git-lfs pointer", "git lfs pull"),
        remedy=load_file_again,
    ),
    Refused(
        row=14,
        name="quantized_gptq",
        says=("base.model", "config.json has quantization_config", "(gptq)", "original weights"),
        remedy=use_sound_model,
    ),
    Refused(
        row=14,
        name="custom_code",
        says=("base.model", "model_type mycustom with auto_map", "its own Python code", "choose"),
        remedy=use_sound_model,
    ),
    Refused(
        row=15,
        name="ins_long.jsonl",
        pool="instructions",
        says=("align.selection.num_instructions", "12 of 12 instructions are longer than 512 tokens", "1793"),
        remedy=select_none("instructions"),
    ),
    Refused(
        row=15,
        name="prf_same_norm.jsonl",
        pool="preferences",
        says=("align.selection.num_preferences", "12 of 12 preferences have answers that differ only in white space"),
        remedy=select_none("preferences"),
    ),
    Refused(
        row=16,
        name="ins_messages.jsonl",
        pool="instructions",
        says=("curation.sources[1].fields.prompt", "ins_messages.jsonl, line 1, field 'prompt'", "'messages'"),
    ),
    Refused(
        row=16,
        name="ins_sharegpt.jsonl",
        pool="instructions",
        says=("curation.sources[1].fields.prompt", "ins_sharegpt.jsonl, line 1, field 'prompt'", "'conversations'"),
    ),
    Refused(
        row=16,
        name="prf_messages.jsonl",
        pool="preferences",
        says=("curation.sources[2].fields.chosen", "prf_messages.jsonl, line 1, field 'chosen'", "a list"),
    ),
    Refused(
        row=18,
        name="binary.parquet",
        pool="domain",
        says=("curation.sources[0].fields.text", "line 1, field 'text': is bytes", "store the column as text"),
    ),
    Refused(
        row=18,
        name="content_col.parquet",
        pool="domain",
        says=("curation.sources[0].fields.text", "the record has: id, content", "set fields: {text: content}"),
        remedy=rename_text,
    ),
    Refused(
        row=18,
        name="prf_hh.jsonl",
        pool="preferences",
        says=("curation.sources[2]", "prf_hh.jsonl, line 1", "set dialogue: human_assistant"),
        remedy=name_dialogue,
    ),
)


def with_input(config: Config, name: str, pool: str, models: Path, folder: Path) -> Config:
    """Return the run with a file of the cases as the source of a pool, or with a copy of a model of the cases."""
    if pool:
        source_of(config, pool)["paths"] = [str(DATA / name)]
    else:
        config["base"]["model"] = str(shutil.copytree(models / name, folder / "model", dirs_exist_ok=True))
        if name.startswith("template_"):
            config["base"]["chat_template"] = ""
    return config


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"row {case.row}: {case.name}")
def test_refused_input_is_named_and_its_remedy_works(
    case: Refused, config: Config, models: Path, tmp_path: Path
) -> None:
    done = validate(with_input(config, case.name, case.pool, models, tmp_path), tmp_path)
    show(case.row, case.name, done)
    assert done.exit_code == 2, done.output
    assert "1 problem found before any work started" in done.output
    assert "->" in done.output
    for text in case.says:
        assert text in done.output
    if case.remedy:
        case.remedy(config)
        mended = validate(config, tmp_path)
        show(case.row, f"{case.name}, mended", mended)
        assert mended.exit_code == 0, mended.output


@pytest.mark.parametrize(
    ("row", "name", "pool", "expected"),
    [
        (6, "added_token_past_end", "", ()),
        (7, "gemma3_vision", "", ()),
        *((8, name, "", ("one document per row",)) for name in ("opt", "mamba", "gpt_oss", "llama4_text")),
        (12, "template_no_end", "", ("base.chat_template", "writes no control token after an answer", "<|end_story|>")),
        (13, "template_inst", "", ()),
        (
            *(17, "nulls.jsonl", "domain"),
            ("11 of 18 records of domain are unusable (61%)", "nulls.jsonl, line 7, field 'text': is null"),
        ),
        (
            *(17, "folder", "domain"),
            ("bad.txt, line 1: is no valid UTF-8 at byte 3", "8 files of domain are left out (5 .pdf, 1 .docx"),
        ),
        (18, "is_gzip.jsonl", "domain", ()),
        (19, "one.txt", "domain", ()),
    ],
)
def test_accepted_input_is_valid_with_a_warning_if_something_is_lost(
    row: int, name: str, pool: str, expected: tuple[str, ...], config: Config, models: Path, tmp_path: Path
) -> None:
    config["mixture"]["row_tokens"] = 128  # the context of opt has 256 tokens
    done = validate(with_input(config, name, pool, models, tmp_path), tmp_path)
    show(row, name, done)
    assert done.exit_code == 0, done.output
    for text in expected:
        assert done.output.count(text) == 1


def test_seven_documents_are_enough(config: Config, files: dict[str, str], tmp_path: Path) -> None:
    seven = tmp_path / "seven.jsonl"
    seven.write_text("".join(Path(files["domain"]).read_text().splitlines(keepends=True)[:7]))
    source_of(config, "domain")["paths"] = [str(seven)]
    done = validate(config, tmp_path)
    show(19, "seven documents", done)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", ["base", "seconds"])
def test_reserved_name_is_refused_by_validate_and_not_written_by_init(
    name: str, config: Config, files: dict[str, str], tmp_path: Path
) -> None:
    config["name"] = name
    done = validate(config, tmp_path)
    show(20, f"name: {name}", done)
    assert done.exit_code == 2
    assert f"name: {name} is reserved" in done.output
    config["name"] = done.output.split("such as ")[-1].split()[0]
    assert validate(config, tmp_path).exit_code == 0
    path = tmp_path / f"{name}.yaml"
    assert mixcpt("init", path, "--documents", files["domain"], "--model", WHOLE).exit_code == 0
    assert yaml.safe_load(path.read_text())["name"] != name


@pytest.mark.parametrize(
    ("option", "name", "says"),
    [
        ("--instructions", "ins_messages.jsonl", "'messages' holds a conversation as a list"),
        ("--instructions", "ins_sharegpt.jsonl", "'conversations' holds a conversation as a list"),
        ("--preferences", "prf_messages.jsonl", "'chosen' is a list"),
        ("--documents", "binary.parquet", "'text' is bytes"),
    ],
)
def test_init_names_the_fields_that_hold_no_text(
    option: str, name: str, says: str, files: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "case.yaml"
    options = {"--documents": files["domain"], option: str(DATA / name)}
    done = mixcpt("init", path, "--model", WHOLE, *(part for pair in options.items() for part in pair))
    print(f"| {16 if option != '--documents' else 18} | `init` with {name} | {done.exit_code}: {done.output[:160]!r} |")
    assert done.exit_code == 2
    assert says in done.output
    assert not path.exists()


@pytest.mark.parametrize("control", ["<|end_story|>", "<|start_story|>"])
def test_control_token_in_an_answer_is_text_in_every_stage(control: str, models: Path) -> None:
    model = ModelRef("inst", str(models / "template_inst"), "")
    tokenizer = load_chat_tokenizer(model, "")
    special = set(tokenizer.all_special_ids)
    chat = encode_chat(tokenizer, "Where is the lamp?", f"It is {control} here.")
    assert [token in special for token in chat.response_ids] == [False] * (len(chat.response_ids) - 1) + [True]
    ids = TextTokenizer(model)([PlainText(f"Where is the lamp?\nIt is {control} here.")]).tokens.tolist()
    assert not special & set(ids[1:-1])
    assert control in load_tokenizer(model).decode(ids[1:-1])
    print(f"| 13 | template_inst and an answer with {control} | text in mixture, SFT and DPO; the answer ends |")


def test_reading_time_of_a_line_is_linear_in_its_length(config: Config, tmp_path: Path) -> None:
    times = [min(_reading_times(tmp_path / f"{size}.jsonl", size)) for size in (2_000_000, 16_000_000)]
    assert times[1] < 24 * times[0]  # 8 if linear, 64 if quadratic
    source_of(config, "domain")["paths"].append(str(tmp_path / "16000000.jsonl"))
    done = validate(config, tmp_path)
    show(21, "one line of 16 MB", done)
    assert done.exit_code == 0, done.output


def _reading_times(path: Path, size: int) -> Iterator[float]:
    sentence = "The keeper of the old lighthouse wrote down what he saw that night. "
    path.write_text(json.dumps({"text": sentence * (size // len(sentence))}) + "\n")
    source = FilesSource(name="long", pool="domain", paths=(str(path),))
    for _ in range(3):
        start = time.process_time()
        [record] = read_file(path, path.name, source)
        assert isinstance(record, RawRecord)
        yield time.process_time() - start
