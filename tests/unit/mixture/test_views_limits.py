"""Limits of cutting: white space at the end, titles of several sentences, parts that must fit into a row."""

from itertools import chain, pairwise, product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, processors, trainers

from mixcpt.config import ViewConfig
from mixcpt.errors import DataError
from mixcpt.mixture.cuts import (
    CutDocument,
    StudentParts,
    cut_as_published,
    cut_document,
    require_same_tokens,
    second_half,
    sentence_ends,
    split_contexts,
)
from mixcpt.mixture.packing import pack_segments
from mixcpt.mixture.pairs import write_pairs
from mixcpt.mixture.tokens import TextTokenizer
from mixcpt.store.models import ModelRef
from tests.unit.tokenizers_of_every_kind import FAMILIES, TEXT, write_tokenizer

IGNORE = -100
SENTENCES = (
    "The owl keeps it.",
    "東京は大きい。",
    "مرحبا بالعالم.",
    "🦉🦊 meet.",
    "e\u0301tude one.",
    "Who? Dr. Fox!",
    "x",
)
SPACES = (" ", "  ", "\n", "\n\n", "\t", "\u00a0", " \n", "")
texts = st.lists(st.tuples(st.sampled_from(SENTENCES), st.sampled_from(SPACES)), min_size=1, max_size=7).map(
    lambda parts: "".join(sentence + space for sentence, space in parts)
)
KINDS = (*FAMILIES, "trimmed_offsets", "prepended_space")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], TextTokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        (kind, has_bos): TextTokenizer(write_kind(folder / f"{kind}{has_bos}", kind, has_bos))
        for kind, has_bos in product(KINDS, (True, False))
    }


def write_kind(folder: Path, kind: str, has_bos: bool) -> ModelRef:
    """Write also byte-level BPE with offsets without spaces (GPT-NeoX) and BPE with a prepended space (Llama 2)."""
    if kind in FAMILIES:
        return write_tokenizer(folder, kind, has_bos=has_bos)
    model = write_tokenizer(folder, "byte_level", has_bos=has_bos)
    file = str(folder / "tokenizer.json")
    if kind == "trimmed_offsets":
        tokenizer = Tokenizer.from_file(file)
        tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        special = ["<pad>", "<unk>", "<s>", "</s>"]
        trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=special, show_progress=False)
        tokenizer.train_from_iterator([TEXT] * 5, trainer)
    tokenizer.save(file)
    return model


def spans(parts: StudentParts) -> list[np.ndarray]:
    columns = np.stack([parts.ids, parts.labels, parts.teacher_index])
    return np.split(columns, np.flatnonzero(parts.position_ids == 0)[1:], axis=1)


def slow_sentences(text: str, starts: list[int], ids: list[int]) -> list[list[int]]:
    """The tokens of every sentence: a token belongs to the first sentence that ends after its start, or to the last."""
    ends = sentence_ends(text)
    sentences: list[list[int]] = [[] for _ in ends]
    latest = 0
    for start, token in zip(starts, ids, strict=True):
        latest = max(latest, start)
        behind = [number for number, end in enumerate(ends) if latest < end]
        sentences[behind[0] if behind else -1].append(token)
    return [sentence for sentence in sentences if sentence]


@pytest.mark.parametrize("has_bos", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_sentences_hold_the_tokens_that_begin_in_them(
    tokenizers: dict[tuple[str, bool], TextTokenizer], kind: str, has_bos: bool
) -> None:
    tokenizer = tokenizers[kind, has_bos]

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(text=texts)
    def check(text: str) -> None:
        (document,) = cut_document([text], tokenizer, ViewConfig(view="split_contexts"))
        encoded = tokenizer.encode([text])[0]
        sentences = [document.ids[start:end].tolist() for start, end in pairwise(document.borders)]
        assert sentences == slow_sentences(text, encoded.starts.tolist(), encoded.ids.tolist())

    check()


@pytest.mark.parametrize("space", [" ", "  ", "\n", " \n "])
@pytest.mark.parametrize("kind", KINDS)
def test_white_space_at_the_end_is_no_sentence(
    tokenizers: dict[tuple[str, bool], TextTokenizer], kind: str, space: str
) -> None:
    view = ViewConfig(view="split_contexts")
    documents = cut_document(["The owl." + space, "The owl. The river." + space], tokenizers[kind, True], view)
    assert [document.num_sentences for document in documents] == [1, 2]


@pytest.mark.parametrize("has_bos", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_student_is_never_asked_for_its_title_nor_reads_more_than_the_teacher(
    tokenizers: dict[tuple[str, bool], TextTokenizer], kind: str, has_bos: bool
) -> None:
    tokenizer = tokenizers[kind, has_bos]

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(text=texts)
    def check(text: str) -> None:
        (document,) = cut_document([text], tokenizer, ViewConfig(view="split_contexts", student_context="title"))
        prefix = document.student_start.tolist()
        assert prefix == document.ids[: len(prefix)].tolist()
        if document.num_sentences < 2:
            return
        for parts in (split_contexts(document, 9, np.random.default_rng(0)), second_half(document)):
            for ids, labels, index in spans(parts):
                assert ids[: len(prefix)].tolist() == prefix and len(ids) <= document.num_tokens
                assert (labels[: len(prefix)] == IGNORE).all() and (index[index >= 0] >= len(prefix)).all()
                assert (labels[max(len(prefix), 1) :] != IGNORE).all()

    check()


@pytest.mark.parametrize("view", ["split_contexts", "halves"])
def test_title_of_two_sentences_is_not_cut_and_its_parts_fit_into_the_row(
    tokenizers: dict[tuple[str, bool], TextTokenizer], tmp_path: Path, view: str
) -> None:
    tokenizer, text = tokenizers["byte_level", True], "Owl. The river.\nX."
    row_tokens = len(tokenizer.encode([text])[0].ids) + 2
    config = ViewConfig(view=view, student_context="title")  # type: ignore[arg-type]
    (document,) = cut_document([text], tokenizer, config)
    title = tokenizer.encode(["Owl. The river."])[0].ids.tolist()
    assert document.student_start.tolist() == [*tokenizer.bos, *title] and document.num_sentences == 2
    write_pairs(
        tmp_path / "rows.parquet", config, {"a": [text]}, {"a": 0}, tokenizer,
        target_tokens=row_tokens, row_tokens=row_tokens, seed=0,
    )  # fmt: skip
    (positions,) = pq.read_table(tmp_path / "rows.parquet")["student_position_ids"].to_pylist()
    _, columns = pack_segments(np.array(positions), row_tokens)
    assert columns.max() < row_tokens


def test_title_is_a_short_first_line_without_the_space_behind_it(
    tokenizers: dict[tuple[str, bool], TextTokenizer],
) -> None:
    tokenizer = tokenizers["byte_level", True]
    view = ViewConfig(view="split_contexts", student_context="title")
    spaced, windows, long, last = cut_document(
        ["Owl \n\nX. Y.", "Owl\r\nX. Y.", "Owl " * 30 + "\nX. Y.", "Owl. X."], tokenizer, view
    )
    owl = tokenizer.encode(["Owl"])[0].ids.tolist()
    assert spaced.student_start.tolist() == windows.student_start.tolist() == [*tokenizer.bos, *owl]
    assert long.student_start.tolist() == last.student_start.tolist() == tokenizer.bos


@pytest.mark.parametrize("has_bos", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_parity_equals_the_authors_loop_of_two_forwards_a_sentence(
    tokenizers: dict[tuple[str, bool], TextTokenizer], kind: str, has_bos: bool
) -> None:
    tokenizer = tokenizers[kind, has_bos]

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(text=texts)
    def check(text: str) -> None:
        borders = [0, *sentence_ends(text)]
        apart = [tokenizer.encode([text[start:end].strip()])[0].ids.tolist() for start, end in pairwise(borders)]
        apart = [ids for ids in apart if ids]
        (document,) = cut_as_published([text], tokenizer, ViewConfig(view="split_contexts", parity=True))
        assert document.num_sentences == max(len(apart), 1)
        if len(apart) < 2:
            return
        cut = spans(split_contexts(document, len(apart), np.random.default_rng(0)))
        assert len(cut) == len(apart) - 1
        for number, (ids, labels, index) in enumerate(cut, 1):
            prefix = [*tokenizer.bos, *chain.from_iterable(apart[:number])]
            teacher_input, student_input = [*prefix, *apart[number]], apart[number]
            assert ids.tolist() == student_input and labels.tolist() == [IGNORE, *student_input[1:]]
            assert index.tolist() == [-1, *range(len(prefix) + 1, len(teacher_input))]
            assert document.ids[: len(teacher_input)].tolist() == teacher_input

    check()


def document_of(ids: list[int], number: int) -> CutDocument:
    return CutDocument(np.array(ids, np.int32), np.array([1, 3, len(ids)]), np.array(ids[:1], np.int32), number)


def test_different_tokens_of_teacher_and_student_are_refused_naming_the_document() -> None:
    parts = second_half(document_of([1, 10, 11, 12, 13], 7))
    require_same_tokens(document_of([1, 10, 11, 12, 13], 7), parts, "notes")
    with pytest.raises(DataError, match="document 7 of source notes: teacher and student have different tokens"):
        require_same_tokens(document_of([1, 10, 11, 12, 99], 7), parts, "notes")


def test_refusal_of_long_documents_says_which_row_takes_how_many(
    tokenizers: dict[tuple[str, bool], TextTokenizer], tmp_path: Path
) -> None:
    tokenizer = tokenizers["byte_level", True]
    documents = ["The owl. " * count for count in range(10, 30)]
    lengths = sorted(len(tokenizer.encode([text])[0].ids) + 2 for text in documents)
    view = ViewConfig(view="halves")
    with pytest.raises(DataError) as caught:
        write_pairs(
            tmp_path / "rows.parquet", view, {"a": documents}, {"a": 0}, tokenizer,
            target_tokens=100, row_tokens=16, seed=0,
        )  # fmt: skip
    assert f"raise mixture.row_tokens to at least {lengths[17]}, which fits 90% of the long" in caught.value.hint
    assert "lssd" not in caught.value.hint  # no document has one sentence only
    account = write_pairs(
        tmp_path / "rows.parquet", view, {"a": documents}, {"a": 0}, tokenizer,
        target_tokens=100, row_tokens=lengths[17], seed=0,
    )  # fmt: skip
    assert account.sources["a"].too_long_documents == 2
