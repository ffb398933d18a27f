"""Packing compared with TRL's `pack_dataset(strategy="bfd_split")`: fill rate and tokens per second.

    python benchmarks/packing.py [--rounds 3] [--rows 512 2048 4096] [--data FOLDER]

Both pack the same tokens; the benchmark fails if a token is lost or doubled. Timed are:

* `ours`: `pack`, `spread_rows` and `lay_out`: rows of ids, labels, positions, sources and token indices, with long and
  short documents spread over the whole run.
* `trl`: `pack_dataset` as TRL's trainers call it, a thousand documents at a time; only ids and segment lengths.
* `trl, at once`: the same over all documents together, which fills rows best and ignores their order.

The packers alternate in one process. Seconds are CPU seconds summed over all threads, so that other programs matter
little. Texts are the paragraphs and the whole documents of the corpora in FOLDER, in random order; without FOLDER only
the log-normal lengths are measured.
"""

import argparse
import gzip
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import trl
from jaxtyping import Int
from measure import in_turn, publish
from tokenizers import Tokenizer

from mixcpt.mixture.packing import pack, spread_rows
from mixcpt.mixture.rows import DocumentTokens, lay_out

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
CORPORA = (
    "medicine/anatomy-physiology.docs.jsonl.gz",
    "social/psychology.docs.jsonl.gz",
    "social/introduction-sociology.docs.jsonl.gz",
    "python/peps.jsonl.gz",
)
TOKENIZER = "models/TinyStories-656K/tokenizer.json"
NUM_DOCUMENTS = 60_000
VOCAB = 32_000
_AT_ONCE = "trl, at once"
_PADDING = -1
"""An id that no token has."""


@dataclass(frozen=True)
class Documents:
    """Concatenated token ids of some texts."""

    tokens: Int[np.ndarray, " tokens"]
    lengths: Int[np.ndarray, " documents"]

    def as_dataset(self) -> datasets.Dataset:
        offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)
        ids = pa.ListArray.from_arrays(offsets, self.tokens.astype(np.int32))
        return datasets.Dataset(pa.table({"input_ids": ids}))


def log_normal() -> Documents:
    """Return random documents with a median of 245 tokens, a tenth of them longer than 880."""
    draw = np.random.default_rng(0)
    lengths = draw.lognormal(5.5, 1, NUM_DOCUMENTS).astype(np.int64) + 1
    return Documents(draw.integers(0, VOCAB, lengths.sum(), dtype=np.int32), lengths)


def real_text(folder: Path) -> Documents:
    """Return the paragraphs and documents of the corpora."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    texts = list(_texts(folder))
    order = np.random.default_rng(0).permutation(len(texts))
    encoded = tokenizer.encode_batch_fast([texts[index] for index in order])
    ids = [np.array(encoding.ids, np.int32) for encoding in encoded]
    return Documents(np.concatenate(ids), np.array([len(document) for document in ids]))


def _texts(folder: Path) -> Iterator[str]:
    for corpus in CORPORA:
        with gzip.open(folder / corpus, "rt", encoding="utf-8") as lines:
            for line in lines:
                text = json.loads(line)["text"]
                yield text
                yield from filter(None, map(str.strip, text.split("\n\n")))


@dataclass(frozen=True)
class Packer:
    """A way to pack: the timed function, and a function that extracts row count and tokens from its result."""

    run: Callable[[], Any]
    contents: Callable[[Any], tuple[int, Int[np.ndarray, " tokens"]]]


def ours(documents: Documents, row_tokens: int) -> Packer:
    lengths = documents.lengths
    table = DocumentTokens(
        documents.tokens,
        np.ones(len(documents.tokens), np.bool_),
        np.cumsum(lengths) - lengths,
        (lengths > np.median(lengths)).astype(np.int64),  # two sources: the shorter half of the documents and the rest
    )

    def run() -> list[Int[np.ndarray, "rows seq"]]:
        packing = pack(lengths, row_tokens)
        shares = np.zeros((packing.num_rows, 2), np.int64)
        np.add.at(shares, (packing.row, table.source[packing.document]), packing.length)
        packing = packing.reordered(spread_rows(shares, seed=0))
        # as in the real writer, which keeps little of each block
        return [rows.input_ids for rows in lay_out(packing, table, row_tokens, _PADDING)]

    def contents(blocks: list[Int[np.ndarray, "rows seq"]]) -> tuple[int, Int[np.ndarray, " tokens"]]:
        rows = np.concatenate(blocks)
        return len(rows), rows[rows != _PADDING]

    return Packer(run, contents)


def trls(documents: Documents, row_tokens: int, batch_size: int | None) -> Packer:
    dataset = documents.as_dataset()
    arguments = {"batch_size": batch_size, "keep_in_memory": True}

    def run() -> datasets.Dataset:
        return trl.pack_dataset(dataset, row_tokens, strategy="bfd_split", map_kwargs=arguments)

    def contents(rows: datasets.Dataset) -> tuple[int, Int[np.ndarray, " tokens"]]:
        return len(rows), rows.data.column("input_ids").combine_chunks().flatten().to_numpy()

    return Packer(run, contents)


PACKERS: dict[str, Callable[[Documents, int], Packer]] = {
    "ours": ours,
    "trl": partial(trls, batch_size=1_000),
    _AT_ONCE: partial(trls, batch_size=None),
}


def pack_once(packer: Packer, documents: Documents, row_tokens: int) -> dict[str, float]:
    """Pack once, and return fill rate and speed; exit if a token is missing or doubled."""
    started = time.process_time()
    packed = packer.run()
    seconds = time.process_time() - started
    num_rows, tokens = packer.contents(packed)
    if not np.array_equal(np.bincount(tokens, minlength=VOCAB), np.bincount(documents.tokens, minlength=VOCAB)):
        raise SystemExit("tokens were lost or doubled")
    return {"fill_fraction": len(tokens) / (num_rows * row_tokens), "tokens_per_second": len(tokens) / seconds}


def compare(cases: Mapping[str, Documents], row_lengths: Sequence[int], rounds: int) -> None:
    """Run all packers on all texts and row lengths, and publish the table."""
    for make in PACKERS.values():  # the first call imports and compiles
        make(Documents(np.zeros(100, np.int32), np.full(10, 10)), 16).run()
    rows, results = [], {}
    for text, documents in cases.items():
        for row_tokens in row_lengths:
            packers = {name: make(documents, row_tokens) for name, make in PACKERS.items()}
            runs = {name: partial(pack_once, packer, documents, row_tokens) for name, packer in packers.items()}
            found = in_turn(rounds, runs)
            rows += [_row(text, documents, row_tokens, name, found) for name in PACKERS]
            results[f"{text} {row_tokens}"] = _result(found)
    worst = {key: min(result[key] for result in results.values()) for key in ("fill_fraction", "speed_ratio")}
    columns = ["texts", "row", "path", "fill", "M tokens / s", "ours / path"]
    publish("packing-cpu", columns, rows, {**worst, "trl": trl.__version__, "all": results}, rounds=rounds)


def _row(text: str, documents: Documents, row_tokens: int, name: str, found: dict[str, dict[str, float]]) -> list[str]:
    figures = found[name]
    return [
        f"{text}: {len(documents.lengths):,} of {len(documents.tokens) / 1e6:.1f} M tokens",
        *(str(row_tokens), name),
        f"{figures['fill_fraction']:.4f}",
        f"{figures['tokens_per_second'] / 1e6:.1f}",
        f"{found['ours']['tokens_per_second'] / figures['tokens_per_second']:.2f}",
    ]


def _result(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return both fill rates, and our speed relative to TRL's."""
    speed = found["ours"]["tokens_per_second"]
    figures = {
        "fill_fraction": found["ours"]["fill_fraction"],
        "fill_fraction_trl": found["trl"]["fill_fraction"],
        "speed_ratio": speed / found["trl"]["tokens_per_second"],
        "speed_ratio_at_once": speed / found[_AT_ONCE]["tokens_per_second"],
    }
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds; the table shows medians")
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 2048, 4096], help="tokens per row")
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with the corpora and their tokenizer")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    cases = {"log-normal": log_normal()}
    if arguments.data.is_dir():
        cases = {"real": real_text(arguments.data), **cases}
    else:
        print(f"{arguments.data} does not exist: only log-normal lengths are measured")
    compare(cases, arguments.rows, arguments.rounds)


if __name__ == "__main__":
    main()
