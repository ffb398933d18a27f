"""Kinds of damaged inputs for bad_inputs.py: each makes one case in a folder and returns its outcome and message."""

import csv
import gzip
import io
import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mixcpt.checks import chat_template, model_folder, names, packing, tokens
from mixcpt.checks.findings import Subject
from mixcpt.config import AdaptConfig, CurationConfig, FilesSource, MultipleChoiceTask, load_config
from mixcpt.config.writing import to_yaml
from mixcpt.curation.pipeline import clean
from mixcpt.curation.report import Corpus
from mixcpt.curation.sources import open_sources
from mixcpt.evaluate.asking.files import read_file
from mixcpt.store.models import CLOSED_WORLD_PATH, ModelRef, load_model, load_tokenizer, resolve_model

Result = tuple[str, str]
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 10**40, 1e308, -1e-300, 0.5),
    *("", " ", "\x00", "\ufeff", "A", "nan", "inf", "1e3", "../../etc", "{{ x }}", "<script>", "\u202e", "é", "漢字"),
    *([], [None], [[]], {}, {"A": 1}, ["a"] * 300, "x" * 100_000, {"a": {"b": {"c": []}}}),
)
_ENCODINGS = ("utf-8-sig", "utf-16", "utf-32", "latin-1", "cp037")
_WORDS = (
    *("river", "stone", "lamp", "garden", "letter", "winter", "bread"),
    *("market", "shoulder", "copper", "window", "island", "teacher", "harbour"),
)


class Loss(Exception):
    """A record is neither used nor set aside nor refused."""


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(12, 30))).capitalize() + "."


def damage(content: bytes, rng: random.Random) -> bytes:
    """Return the content after one to three random changes of its bytes."""
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(content) + 1)
        end = min(len(content), place + rng.choice((1, 2, 16, 300)))
        change = rng.randrange(10)
        if change == 0:
            content = content[:place]
        elif change == 1:
            content = content[:place] + content[end:]
        elif change == 2:
            content = content[:place] + rng.randbytes(end - place) + content[end:]
        elif change == 3:
            content = content[:place] + content[place:end] * rng.choice((2, 50)) + content[end:]
        elif change == 4:
            content = content.decode("utf-8", "replace").encode(rng.choice(_ENCODINGS), "replace")
        elif change == 5:
            content = content.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"\x00", b"")))
        elif change == 6:
            content = gzip.compress(content, compresslevel=1)
        elif change == 7:
            content = (
                content[:place] + rng.choice((b"\x00", b"\xff\xfe", b'"', b"{", b"}", b"\xf0\x9f")) + content[place:]
            )
        elif change == 8:
            content = content.replace(b'"', rng.choice((b"'", b"", b'\\"')), rng.randint(1, 4))
        else:
            content = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    return content


def _odd_record(record: dict[str, Any], rng: random.Random) -> Any:
    """Return the record with a changed, renamed, missing or additional field, or another value in its place."""
    key = rng.choice(list(record))
    change = rng.randrange(6)
    if change == 0:
        return record | {key: rng.choice(ODD_VALUES)}
    if change == 1:
        return {name: value for name, value in record.items() if name != key}
    if change == 2:
        return {
            rng.choice(("Text", "content", "", "x" * 1000)) if name == key else name: v for name, v in record.items()
        }
    if change == 3:
        return record | {str(rng.choice(ODD_VALUES))[:50]: rng.choice(ODD_VALUES)}
    return rng.choice(ODD_VALUES) if change == 4 else [record]


def _json_lines(records: list[Any]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode("utf-8", "replace")


def _write_records(folder: Path, records: list[dict[str, Any]], rng: random.Random) -> tuple[Path, int]:
    """Write records to a file of a random kind, damaged or with odd records; return it and its number of lines or 0."""
    odd = [_odd_record(record, rng) if rng.random() < 0.3 else record for record in records]
    kind = rng.choice(("jsonl", "jsonl", "jsonl", "jsonl.gz", "parquet", "txt", "md", "json"))
    path = folder / f"records.{kind}"
    if kind == "parquet":
        columns = [{str(k): json.dumps(v) if k == "odd" else v for k, v in record.items()} for record in records]
        column = rng.choice((None, b"bytes", 3, ["list"], {"struct": 1}))
        table = pa.Table.from_pylist(columns)
        table = table.append_column("added", pa.array([column] * table.num_rows))
        pq.write_table(table.rename_columns([rng.choice((name, "other")) for name in table.column_names]), path)
        if rng.random() < 0.6:
            path.write_bytes(damage(path.read_bytes(), rng))
        return path, 0
    content = _json_lines(odd)
    is_damaged = rng.random() < 0.5
    if kind.endswith(".gz"):
        content = gzip.compress(content)
    content = damage(content, rng) if is_damaged else content
    path.write_bytes(content)
    return path, len(odd) if kind == "jsonl" and not is_damaged else 0


def _record(pool: str, number: int, rng: random.Random) -> dict[str, Any]:
    texts = {
        "domain": ("text",),
        "general": ("text",),
        "instructions": ("prompt", "response"),
        "preferences": ("prompt", "chosen", "rejected"),
    }
    return {"id": f"record-{number}", **{name: f"{_sentence(rng)} Number {number}." for name in texts[pool]}}


def sources(folder: Path, rng: random.Random) -> Result:
    """Curate a damaged file of documents, instructions or preferences; every record must be counted."""
    pool = rng.choice(("domain", "general", "instructions", "preferences"))
    records = [_record(pool, number, rng) for number in range(12)]
    path, num_lines = _write_records(folder, records, rng)
    documents = folder / "documents.jsonl"
    documents.write_bytes(_json_lines([_record("domain", number, rng) for number in range(12)]))
    whole = FilesSource(name="whole", pool="domain", paths=(str(documents),))
    source = FilesSource(name="records", pool=pool, paths=(str(path),))
    config = CurationConfig(sources=(whole, source), heldout_fraction=0.2)
    corpus = clean(config, open_sources(config), seed=0)
    corpus.write(folder)
    _require_counted(corpus, num_lines)
    rejected = [*(str(defect) for _, defect in corpus.quarantined), *map(str, corpus.removed)]
    return ("set aside", rejected[0]) if rejected else ("used", "")


def _require_counted(corpus: Corpus, num_lines: int) -> None:
    sizes = [len(corpus.kept), len(corpus.heldout), len(corpus.removed), len(corpus.quarantined)]
    if sum(corpus.num_read.values()) > sum(sizes):
        raise Loss(f"{corpus.num_read} records read; kept, held out, removed and set aside: {sizes}")
    if corpus.num_read["records"] < num_lines:
        raise Loss(f"{num_lines} lines in the file, {corpus.num_read} records read")


def questions(folder: Path, rng: random.Random) -> Result:
    """Read a damaged file of multiple-choice questions; every line is an item or is set aside."""
    letters = "ABCD"
    form = rng.choice(("list", "labelled", "columns"))
    records: list[dict[str, Any]] = []
    for number in range(10):
        options = [f"{word} {number}" for word in rng.sample(_WORDS, 4)]
        key = rng.randrange(4)
        answer = rng.choice((letters[key], options[key], key)) if form == "list" else letters[key]
        choices = {"list": options, "labelled": dict(zip(letters, options, strict=True))}.get(form)
        fields = {"choices": choices} if choices else dict(zip(letters, options, strict=True))
        records.append({"question": f"{_sentence(rng)}?", **fields, "answer": answer})
    odd = [_odd_record(record, rng) if rng.random() < 0.4 else record for record in records]
    kind = rng.choice(("jsonl", "json", "csv", "tsv"))
    path = folder / f"questions.{kind}"
    content = _json_lines(odd)
    if kind == "json":
        content = json.dumps(rng.choice((odd, {"data": odd}, odd[0]))).encode()
    elif kind in ("csv", "tsv"):
        content = _delimited([record for record in odd if isinstance(record, dict)], "," if kind == "csv" else "\t")
    is_damaged = rng.random() < 0.4
    path.write_bytes(damage(content, rng) if is_damaged else content)
    items, rejected = read_file(MultipleChoiceTask(name="asked", group="domain", path=str(path)), path)
    if kind == "jsonl" and not is_damaged and len(items) + len(rejected) < len(odd):
        raise Loss(f"{len(odd)} lines, {len(items)} items and {len(rejected)} set aside")
    if any(item.gold not in item.choices or not item.gold.strip() for item in items):
        raise Loss("a right answer is empty or none of the choices")
    return ("set aside", str(rejected[0])) if rejected else ("used", "")


def _delimited(records: list[dict[str, Any]], delimiter: str) -> bytes:
    columns = list(dict.fromkeys(str(name) for record in records for name in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter=delimiter, escapechar="\\")
    writer.writeheader()
    for record in records:
        writer.writerow({str(name): str(value).replace("\x00", "") for name, value in record.items()})
    return text.getvalue().encode("utf-8", "replace")


def settings(folder: Path, rng: random.Random) -> Result:
    """Load settings with one or two values replaced, or a damaged file of settings."""
    path = folder / "run.yaml"
    path.write_text(to_yaml(AdaptConfig(), only_set=False), encoding="utf-8")
    if rng.random() < 0.3:
        path.write_bytes(damage(path.read_bytes(), rng))
        load_config(path)
        return "used", ""
    changes = []
    for _ in range(rng.randint(1, 2)):
        keys = _path_of_a_setting(AdaptConfig().model_dump(mode="json"), rng)
        changes.append(f"{keys}={json.dumps(rng.choice(ODD_VALUES))}")
    load_config(path, changes)
    return "used", ""


def _path_of_a_setting(data: Any, rng: random.Random) -> str:
    keys: list[str] = []
    while isinstance(data, Mapping) and data and rng.random() < 0.9:
        key = rng.choice(list(data))
        keys.append(key if rng.random() < 0.97 else key[::-1])
        data = data[key]
    return ".".join(keys) or "name"


def run_names(folder: Path, rng: random.Random) -> Result:
    """Load a run with an unusual name and check it."""
    alphabet = "abzAZ09-_. /\\\x00\n\u202eéß漢🙂'\"<>&{}%"
    reserved = ("base", "seconds", "con", "..", "-", "a" * 300, "RESULT", "champion")
    name = rng.choice((*reserved, "".join(rng.choices(alphabet, k=rng.randint(0, 12)))))
    config = load_config(None, [f"name={json.dumps(name)}"])
    problems = [finding for finding in names.check(Subject(config, None)) if not finding.is_warning]
    return ("refused", str(problems[0])) if problems else ("used", "")


def _copy_of_the_base(folder: Path) -> Path:
    return Path(shutil.copytree(CLOSED_WORLD_PATH, folder / "model"))


def _check_model(path: Path, template: str = "") -> Result:
    """Run the checks of a model; one without findings must load, encode a chat and compute finite logits."""
    import torch

    config = load_config(None, [f"base.model={json.dumps(str(path))}", f"base.chat_template={json.dumps(template)}"])
    base = resolve_model(config.base)
    subject = Subject(config, base)
    for check in (model_folder.check, tokens.check, chat_template.check, packing.check):
        problems = [finding for finding in check(subject) if not finding.is_warning]
        if problems:
            return "refused", str(problems[0])
    _use(base, template)
    torch.manual_seed(0)
    return "used", ""


def _use(base: ModelRef, template: str) -> None:
    import torch

    from mixcpt.align.chat import encode_chat, load_chat_tokenizer

    tokenizer: Any = load_tokenizer(base)
    chat = encode_chat(load_chat_tokenizer(base, template), "Where is the lamp?", "The lamp is in the garden.")
    assert chat.num_tokens > 2
    ids = tokenizer("The lamp is in the garden.", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = load_model(base)(ids).logits
    if not logits.isfinite().all():
        raise Loss("the logits of an accepted model are not finite")


def weights(folder: Path, rng: random.Random) -> Result:
    """Check a model whose weights are damaged."""
    path = _copy_of_the_base(folder)
    file = next(path.glob("*.safetensors"))
    content = file.read_bytes()
    if rng.random() < 0.5:
        head = damage(content[:4096], rng)
        file.write_bytes(head + content[4096:])
    else:
        file.write_bytes(damage(content, rng))
    return _check_model(path)


def _change_json(file: Path, rng: random.Random) -> None:
    data: Any = json.loads(file.read_text())
    node: Any = data
    keys: list[tuple[Any, Any]] = []
    while isinstance(node, dict | list) and node and (not keys or rng.random() < 0.7):
        place: Any = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        keys.append((node, place))
        node = node[place]
    parent, place = keys[-1]
    if isinstance(parent, dict) and rng.random() < 0.2:
        del parent[place]
    else:
        parent[place] = rng.choice(ODD_VALUES)
    file.write_text(json.dumps(data))


def model_settings(folder: Path, rng: random.Random) -> Result:
    """Check a model with a changed or damaged config.json."""
    return _with_changed_file(folder, rng, ("config.json", "generation_config.json"))


def tokenizers(folder: Path, rng: random.Random) -> Result:
    """Check a model with a changed or damaged file of its tokenizer."""
    return _with_changed_file(folder, rng, ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"))


def _with_changed_file(folder: Path, rng: random.Random, candidates: tuple[str, ...]) -> Result:
    path = _copy_of_the_base(folder)
    file = rng.choice([path / name for name in candidates if (path / name).is_file()])
    if rng.random() < 0.25:
        file.write_bytes(damage(file.read_bytes(), rng))
    else:
        _change_json(file, rng)
    return _check_model(path)


def templates(folder: Path, rng: random.Random) -> Result:
    """Check a model with a damaged chat template."""
    from mixcpt.store.models import read_chat_template

    text = read_chat_template(rng.choice(("plain", "chatml")))
    pieces = (
        "{%",
        "%}",
        "{{",
        "}}",
        "{% if x %}",
        "raise_exception('no')",
        "messages[5]",
        "|tojson",
        "| upper",
        "eos_token",
    )
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(text) + 1)
        change = rng.randrange(4)
        if change == 0:
            text = text[:place] + rng.choice(pieces) + text[place:]
        elif change == 1:
            text = text[:place] + text[place + rng.randint(1, 30) :]
        elif change == 2:
            text = text[:place]
        else:
            text = text.replace(rng.choice(("content", "role", "assistant", "user", "message", "endfor")), "other", 1)
    file = folder / "template.jinja"
    file.write_text(text)
    return _check_model(CLOSED_WORLD_PATH, str(file))


KINDS: Mapping[str, Callable[[Path, random.Random], Result]] = {
    kind.__name__: kind
    for kind in (sources, questions, settings, run_names, weights, model_settings, tokenizers, templates)
}
"""Kinds of inputs by name."""
