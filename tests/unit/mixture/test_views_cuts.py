"""Cut documents: teacher and student have the same tokens, for every tokenizer and any white space."""

from collections.abc import Callable
from itertools import chain, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcpt.config import ViewConfig
from mixcpt.mixture.cuts import (
    CutDocument,
    StudentParts,
    cut_as_published,
    cut_document,
    second_half,
    sentence_ends,
    split_contexts,
)
from mixcpt.mixture.packing import pack_segments, pack_whole
from mixcpt.mixture.tokens import TextTokenizer
from tests.unit.tokenizers_of_every_kind import FAMILIES, write_tokenizer

IGNORE = -100
SENTENCES = (
    "The owl keeps an old tower.", "Where does Dr. Fox live?", "Naïve café façade!", "東京は大きい。", "مرحبا بالعالم.",
    "🦉🦊 meet.", "e\u0301tude one.", "x", "It cost 3.50 today.", "...", "“Quoted.”",
)  # fmt: skip
SPACES = (" ", "  ", "\n", "\n\n", "\t", "\u00a0", " \r\n ", "\u3000", "")
documents = st.lists(st.tuples(st.sampled_from(SENTENCES), st.sampled_from(SPACES)), min_size=1, max_size=9).map(
    lambda parts: "".join(sentence + space for sentence, space in parts)
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], TextTokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        (family, has_bos): TextTokenizer(write_tokenizer(folder / f"{family}{has_bos}", family, has_bos=has_bos))
        for family, has_bos in product(FAMILIES, (True, False))
    }


def parts_of(segments: StudentParts) -> list[np.ndarray]:
    """The student's parts, each as rows of ids, labels and teacher index."""
    columns = np.stack([segments.ids, segments.labels, segments.teacher_index])
    return np.split(columns, np.flatnonzero(segments.position_ids == 0)[1:], axis=1)


def check_parts(document: CutDocument, segments: StudentParts, has_bos: bool) -> None:
    """Check the properties of every cut."""
    for ids, labels, index in parts_of(segments):
        scored = labels != IGNORE
        assert ((index >= 0) == scored).all()
        assert (document.ids[index[scored]] == ids[scored]).all()
        assert (labels[scored] == ids[scored]).all()
        assert not scored[0] and scored[1:].all()  # BOS, or a first token without context
        assert (np.diff(index[1:]) == 1).all()  # one whole piece of the document
        assert (index[scored] >= 1).all()
        if has_bos:
            assert ids[0] == document.ids[0]


@pytest.mark.parametrize("has_bos", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_student_tokens_are_the_teachers_for_every_tokenizer(
    tokenizers: dict[tuple[str, bool], TextTokenizer], family: str, has_bos: bool
) -> None:
    tokenizer = tokenizers[family, has_bos]

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(text=documents, splits=st.integers(1, 6), seed=st.integers(0, 3))
    def check(text: str, splits: int, seed: int) -> None:
        (document,) = cut_document([text], tokenizer, ViewConfig(view="split_contexts"))
        whole = [*tokenizer.bos, *tokenizer.encode([text])[0].ids, *tokenizer.eos]
        assert document.ids.tolist() == whole
        assert document.borders[0] == len(tokenizer.bos) and document.borders[-1] == len(whole) - len(tokenizer.eos)
        if document.num_sentences < 2:
            return
        segments = split_contexts(document, splits, np.random.default_rng(seed))
        check_parts(document, segments, has_bos)
        starts = [int(part[2][1:].min()) - (not has_bos) if part.shape[1] > 1 else -1 for part in parts_of(segments)]
        cuts = [start for start in starts if start >= 0]
        assert set(cuts) <= set(document.borders[1:-1].tolist()) and len(set(cuts)) == len(cuts)
        assert len(starts) == min(splits, document.num_sentences - 1)
        check_parts(document, second_half(document), has_bos)

    check()


def slow_published(text: str, tokenizer: TextTokenizer) -> list[tuple[list[int], list[int]]]:
    """The loop of the published code: every prefix and its suffix, sentences tokenised separately and joined."""
    sentences, start = [], 0
    for end in sentence_ends(text):
        if piece := text[start:end].strip():
            sentences.append(tokenizer.encode([piece])[0].ids.tolist())
        start = end
    sentences = [sentence for sentence in sentences if sentence]
    loop = []
    for index in range(1, len(sentences)):
        prefix = list(chain.from_iterable(sentences[:index]))
        loop.append(([*tokenizer.bos, *prefix], sentences[index]))
    return loop


@pytest.mark.parametrize("family", FAMILIES)
def test_parity_equals_the_published_loop(tokenizers: dict[tuple[str, bool], TextTokenizer], family: str) -> None:
    tokenizer = tokenizers[family, True]
    text = "The owl keeps a tower.  Where is it?\n\nNaïve café! 東京は大きい。 One more sentence here."
    (document,) = cut_as_published([text], tokenizer, ViewConfig(view="split_contexts", parity=True))
    loop = slow_published(text, tokenizer)
    segments = split_contexts(document, len(loop), np.random.default_rng(0))
    assert len(loop) >= 3
    for (prefix, suffix), (ids, labels, index) in zip(loop, parts_of(segments), strict=True):
        assert ids.tolist() == suffix  # no BOS
        assert labels.tolist() == [IGNORE, *suffix[1:]]  # the first token is never scored
        assert document.ids[: index[1]].tolist() == [*prefix, suffix[0]]  # the context of the teacher


def test_first_sentence_token_is_scored_with_bos_and_not_in_parity(
    tokenizers: dict[tuple[str, bool], TextTokenizer],
) -> None:
    tokenizer, text = tokenizers["byte_level", True], "The owl. The fox. The heron."
    counts: list[int] = []
    cutters: list[tuple[Callable[..., object], bool]] = [(cut_document, False), (cut_as_published, True)]
    for cut, parity in cutters:
        (document,) = cut([text], tokenizer, ViewConfig(view="split_contexts", parity=parity))  # type: ignore[misc]
        segments = split_contexts(document, 2, np.random.default_rng(0))
        assert len(parts_of(segments)) == 2
        counts.append(int((segments.labels != IGNORE).sum()) - len(segments.labels))
    assert counts == [-2, -2]  # one token per part is not scored: BOS, or the first token of the sentence with parity


def test_last_sentence_is_always_cut_and_the_others_change_with_the_seed(
    tokenizers: dict[tuple[str, bool], TextTokenizer],
) -> None:
    text = " ".join(f"The owl likes river number {number}." for number in range(20))
    (document,) = cut_document([text], tokenizers["byte_level", True], ViewConfig(view="split_contexts"))
    assert document.num_sentences == 20
    drawn = set()
    for seed in range(200):
        parts = parts_of(split_contexts(document, 5, np.random.default_rng(seed)))
        starts = [int(part[2][1]) for part in parts]
        assert len(set(starts)) == 5 and starts == sorted(starts)
        assert starts[-1] == document.borders[-2] and starts[0] >= document.borders[1]
        drawn |= set(starts)
    assert drawn == set(document.borders[1:-1].tolist())  # every sentence except the first is drawn


def test_halves_cut_at_the_border_nearest_to_the_middle(tokenizers: dict[tuple[str, bool], TextTokenizer]) -> None:
    text = "The owl. " + "The river is wide and the heron likes it a lot. " * 2 + "The fox."
    (document,) = cut_document([text], tokenizers["byte_level", True], ViewConfig(view="halves"))
    start = int(second_half(document).teacher_index[1])
    middle = (document.borders[0] + document.borders[-1]) / 2
    assert start == min(document.borders[1:-1], key=lambda border: abs(border - middle))
    assert second_half(document).labels[-1] == document.ids[document.borders[-1] - 1]


def test_title_stands_unscored_before_every_part(tokenizers: dict[tuple[str, bool], TextTokenizer]) -> None:
    tokenizer = tokenizers["byte_level", True]
    view = ViewConfig(view="split_contexts", student_context="title")
    (document,) = cut_document(["The owl\nIt keeps a tower. It likes the river."], tokenizer, view)
    title = tokenizer.encode(["The owl"])[0].ids.tolist()
    for ids, labels, _ in parts_of(split_contexts(document, 5, np.random.default_rng(0))):
        assert ids[: 1 + len(title)].tolist() == [*tokenizer.bos, *title]
        assert (labels[: 1 + len(title)] == IGNORE).all() and (labels[1 + len(title) :] != IGNORE).all()
    (untitled,) = cut_document(["It keeps a tower. It likes the river."], tokenizer, view)
    assert untitled.student_start.tolist() == tokenizer.bos


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=40))
def test_segments_are_packed_whole_and_apart(lengths: list[int]) -> None:
    positions = np.concatenate([np.arange(length) for length in lengths])
    row, column = pack_segments(positions, 20)
    places = list(zip(row.tolist(), column.tolist(), strict=True))
    assert len(set(places)) == len(places) and column.max() < 20
    for part in np.split(np.stack([row, column]), np.cumsum(lengths)[:-1], axis=1):
        assert len(set(part[0])) == 1 and (np.diff(part[1]) == 1).all()
    rows = pack_whole(np.array(lengths), 20, window=7)
    assert np.bincount(rows, weights=lengths).max() <= 20
    assert sorted(set(rows.tolist())) == list(range(rows.max() + 1))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=200) | documents)
def test_sentences_cover_any_text_in_order(text: str) -> None:
    ends = sentence_ends(text)
    assert ends[-1] == len(text) and ends == sorted(ends)
    assert all(text[start:end].strip() for start, end in zip([0, *ends], ends[:-1], strict=False))
