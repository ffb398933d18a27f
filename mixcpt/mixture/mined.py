"""Mine reading-comprehension tasks from raw documents by patterns, as AdaptLLM does.

The kinds of tasks follow Cheng et al., "Adapting Large Language Models via Reading Comprehension" (arXiv
2309.09530), section 3: summary, words to text, entailment, cause, paraphrase, completion. Plain questions for
relations, definitions and last words are added.

Every answer except the labels of entailment is a text of the document, so a task teaches to read, not to invent. The
patterns match plain English sentences, without headings, lists, tables, code and damaged text; documents in other
languages remain unchanged.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence, Set
from itertools import chain, pairwise, zip_longest

from mixcpt.closed_world.dice import Dice
from mixcpt.config import Form
from mixcpt.mixture.cuts import sentence_ends
from mixcpt.mixture.patterns import MinedTask, capitalised, inside_sentence, question_of, stands_by_itself, without_lead

QUESTION_KINDS = frozenset({"relation", "definition", "cause", "cloze"})
"""Kinds of tasks that are plain questions with a short answer."""
LABELS = _FOLLOWS, _OPPOSES, _ADDS = "Entailment", "Contradiction", "Neutral"
"""The only answers that may be missing in the document."""

_CHARACTERS_PER_TASK = 500
_NUM_TASKS = (6, 24)
"""Minimum and maximum number of tasks per document; between them the number depends on its length."""
_MIN_SENTENCES_TO_COMPLETE = 8
"""Minimum length of a document with completion tasks; the other tasks of a shorter one cover its second half."""
_MAX_HALF_CHARACTERS = 800

_CONNECTIVES = (
    ("entailment", _FOLLOWS, "Therefore|Thus|Hence|Accordingly|Consequently"),
    ("entailment", _OPPOSES, "In contrast|By contrast|On the contrary|Conversely|However|Nevertheless"),
    ("entailment", _ADDS, "Moreover|Furthermore|Additionally|In addition"),
    ("cause", "", "As a result|As a consequence|For this reason"),
    ("paraphrase", "", "In other words|That is|That is to say|Put simply|Put another way"),
    ("example", "", "For example|For instance"),
)
"""Kind of task, label, and the first words of a sentence that connect it to the one before it."""
_TIES = tuple((kind, label, re.compile(rf"(?:{words}), (?P<rest>.+)$")) for kind, label, words in _CONNECTIVES)
_TIE_WORDINGS = {
    "entailment": (
        "{before} Is it entailment, contradiction or neutral to say: {rest}",
        "Premise: {before} Hypothesis: {rest} Entailment, contradiction or neutral?",
    ),
    "cause": ("What is the result of this? {before}", "{before} What comes of it?"),
    "paraphrase": ("Say this in other words: {before}", "{before} What does this mean?"),
    "example": ("Give an example of this: {before}", "{before} What is an example?"),
}
_ABOUT_WORDINGS = ("What is known about {topic}?", "Tell me about {topic}.", "What do people say about {topic}?")
_TITLE_WORDINGS = ("What is this about?", "Tell me what this is about.", "Name the thing that this is about.")
_COMPLETION_WORDINGS = ("Complete this text: {begin}", "How does this go on? {begin}")
_LEAD_INS = ("", "", "Ask and answer:", "Ask about it, and answer:", "What do people know about it?")
"""Texts between a document and its tasks; empty for none."""
_KEYWORD = re.compile(
    r"\b(?!\w+(?:ly|ing|ed)\b|(?i:about|after|also|among|another|because|been|before|being|between|both|called|does|"
    r"each|from|give|have|here|however|into|itself|just|known|knows|like|many|more|most|much|must|often|only|other|over|"
    r"people|same|should|some|such|than|that|their|them|then|there|these|they|this|those|through|under|very|well|were|"
    r"what|when|where|which|while|will|with|within|would|your)\b)[^\W\d_]{4,}\b"
)
"""A word that may belong to the domain."""
_NUM_KEYWORDS = 3

_MAX_SENTENCE_CHARACTERS = 300
_MAX_TITLE_CHARACTERS = 100
_WRAPPED_CHARACTERS = range(50, 101)
"""Lengths of lines that may have been wrapped. A longer line is a paragraph, a shorter one a title."""

_NOT_PROSE = re.compile(r"\s{4}|\t|[#*|>=~`+-]|\d+[.)]\s")
"""Beginning of a line of a heading, a list, a table or code."""
_PLAIN = re.compile(r"[^\W\d_a-z][^`|{}<>=*_#\\/\n]*[^\W_][)”\"]?\.$")
"""Text from a capital letter to a full stop after a word, without characters of markup, code or addresses."""
_TORN = re.compile(r"\(\s|\(\)|\(credit|\s[,.;]|[a-z]\.[A-Z]|\.\.|\s[-–—]\s|:.*:")
"""Traces of removed figures, references and spaces."""
_VERB = re.compile(
    r"(?<!-)\b(?:is|are|was|were|be|been|has|have|had|do|does|did|can|could|may|might|will|would|shall|should|must|"
    r"\w{2,}ed|gives?|says?|makes?|uses?|causes?|contains?|forms?|includes?|provides?|occurs?|produces?|allows?|helps?|"
    r"becomes?|became|needs?|begins?|began|takes?|took|gets?|goes|went|comes?|came|consists?|leads?|led|requires?|"
    r"remains?|shows?|acts?|carry|carries|moves?|changes?|keeps?|means?|lies|holds?|connects?|increases?|decreases?)\b"
)
"""The most frequent finite verbs; a line without one is probably a heading or the title of a reference."""
_GLOSSARY = re.compile(r"(?P<term>[^\W\d_A-Z][\w ’'-]{2,40}): (?P<meaning>[^\W\d_A-Z][^:|]{20,250})$")
_MIN_TERMS = 4
"""Minimum number of such lines in a glossary; fewer are probably something else with a colon."""
_BARE_TITLE = re.compile(r"(?i)(?:introduction|overview|summary|abstract|contents|chapter|section|part|figure|table)\b")
"""Titles that name a part of the text instead of its subject."""


def mine_tasks(text: str, *, max_tasks: int, seed: int, kinds: Collection[str] | None = None) -> list[MinedTask]:
    """Return tasks in random order, of as many kinds as possible; they depend only on text and seed.

    Args:
        text: A document.
        max_tasks: Maximum number of tasks.
        seed: Seed of the choice of tasks and wordings.
        kinds: Kinds to choose from; None means all.
    """
    dice = Dice("mined", seed, hashlib.sha256(text.encode()).hexdigest())
    by_question = {task.question: task for task in _all_tasks(text, dice) if kinds is None or task.kind in kinds}
    by_kind: dict[str, list[MinedTask]] = {}
    for task in dice.shuffled(list(by_question.values())):
        by_kind.setdefault(task.kind, []).append(task)
    # Take one task of every kind in turn, until the kinds are used up.
    in_turn = [task for task in chain.from_iterable(zip_longest(*by_kind.values())) if task]
    return dice.shuffled(in_turn[:max_tasks])


def compose(text: str, form: Form, separator: str, *, seed: int) -> str:
    """Return a document in a form; a document without tasks remains unchanged.

    Args:
        text: A document.
        form: `text` for the document only; `reading` with tasks of all kinds after it; `questions_after` and
            `questions_before` with plain questions and their answers after or before it.
        separator: Text between question and answer, as in instructions.
        seed: Seed of the choice of tasks.
    """
    if form == "text":
        return text
    max_tasks = min(max(len(text) // _CHARACTERS_PER_TASK, _NUM_TASKS[0]), _NUM_TASKS[1])
    tasks = mine_tasks(text, max_tasks=max_tasks, seed=seed, kinds=None if form == "reading" else QUESTION_KINDS)
    if not tasks:
        return text
    blocks = [f"{task.question}{separator}{task.answer}" for task in tasks]
    if form == "reading":  # separate paragraphs or one, with or without a lead-in
        dice = Dice("joined", seed, blocks[0])
        blocks = blocks if dice.chance(0.5) else ["\n".join(blocks)]
        lead_in = dice.pick(_LEAD_INS)
        blocks = [lead_in, *blocks] if lead_in else blocks
    return "\n\n".join([*blocks, text] if form == "questions_before" else [text, *blocks])


def _all_tasks(text: str, dice: Dice) -> Iterator[MinedTask]:
    lower_case = frozenset(re.findall(r"\b[^\W\d_A-Z][\w’'-]*", text))
    lines = text.splitlines()
    title = _title(lines)
    body = lines[1:] if title else lines
    paragraphs = [_sentences(paragraph) for paragraph in _paragraphs(body)]
    sentences = list(filter(is_plain, chain.from_iterable(paragraphs)))
    if title and sentences:
        yield MinedTask("summary", dice.pick(_TITLE_WORDINGS), title)
        yield MinedTask("title", dice.pick(_ABOUT_WORDINGS).format(topic=title), sentences[0])
    terms = list(filter(None, map(_GLOSSARY.match, body)))
    for match in terms if len(terms) >= _MIN_TERMS else ():
        yield MinedTask("definition", f"What is meant by {match['term']}?", match["meaning"].rstrip("."))
    for sentence in sentences:
        if task := question_of(sentence, lower_case, dice):
            yield task
    yield from _of_keywords(sentences, lower_case, dice)
    for paragraph in paragraphs:
        yield from _of_neighbours(paragraph, dice)
    if sum(map(len, paragraphs)) >= _MIN_SENTENCES_TO_COMPLETE:
        for paragraph in paragraphs:
            yield from _of_halves(paragraph, dice)


def _of_keywords(sentences: Sequence[str], lower_case: Set[str], dice: Dice) -> Iterator[MinedTask]:
    """Yield sentences as answers to their words that occur several times in the document (word-to-text)."""
    keywords = [_keywords(sentence, lower_case) for sentence in sentences]
    counts = Counter(chain.from_iterable(keywords))
    for sentence, words in zip(sentences, keywords, strict=True):
        repeated = sorted((word for word in words if counts[word] > 1), key=lambda word: -counts[word])
        most_frequent = repeated[:_NUM_KEYWORDS]
        if len(most_frequent) == _NUM_KEYWORDS and stands_by_itself(sentence):
            *others, last = (word for word in words if word in most_frequent)
            question = dice.pick(_ABOUT_WORDINGS).format(topic=f"{', '.join(others)} and {last}")
            yield MinedTask("word_to_text", question, sentence)


def _keywords(sentence: str, lower_case: Set[str]) -> list[str]:
    """Return the different words of a sentence that may belong to the domain, in order."""
    return list(dict.fromkeys(inside_sentence(word, lower_case) for word in _KEYWORD.findall(sentence)))


def _of_neighbours(paragraph: Sequence[str], dice: Dice) -> Iterator[MinedTask]:
    """Yield questions about the relation of two neighbouring sentences, given by the words that connect them."""
    for before, sentence in pairwise(paragraph):
        if not (is_plain(before) and is_plain(sentence) and stands_by_itself(before)):
            continue
        for kind, label, tie in _TIES:
            if match := tie.match(sentence):
                rest = capitalised(match["rest"])
                question = dice.pick(_TIE_WORDINGS[kind]).format(before=without_lead(before), rest=rest)
                yield MinedTask(kind, question, label or rest)


def _of_halves(paragraph: Sequence[str], dice: Dice) -> Iterator[MinedTask]:
    """Yield the task to complete the first half of a paragraph with the second."""
    middle = len(paragraph) // 2
    begin, end = " ".join(paragraph[:middle]), " ".join(paragraph[middle:])
    if middle >= 2 and all(map(is_plain, paragraph)) and max(len(begin), len(end)) <= _MAX_HALF_CHARACTERS:
        yield MinedTask("completion", dice.pick(_COMPLETION_WORDINGS).format(begin=begin), end)


def is_plain(sentence: str) -> bool:
    """Return whether this is one complete declarative sentence of ordinary length, without markup or damage."""
    return (
        len(sentence) <= _MAX_SENTENCE_CHARACTERS
        and bool(_PLAIN.match(sentence))
        and bool(_VERB.search(sentence))
        and not _TORN.search(sentence)
        and sentence.count("(") == sentence.count(")")
        and sentence.count("“") == sentence.count("”")
        and sentence.count('"') % 2 == 0
        and sentence.count(" ") >= 2
    )


def _title(lines: list[str]) -> str | None:
    if len(lines) < 2 or (lines[1].strip() and len(lines[0]) in _WRAPPED_CHARACTERS):
        return None
    title = lines[0].lstrip("# ").strip()
    is_short = 3 <= len(title) <= _MAX_TITLE_CHARACTERS
    return title if is_short and title[-1].isalnum() and ": " not in title and not _BARE_TITLE.match(title) else None


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """Yield the paragraphs of running text, with wrapped lines joined."""
    paragraph: list[str] = []
    for line in [*lines, ""]:  # the empty line ends the last paragraph
        is_prose = bool(line.strip()) and not _NOT_PROSE.match(line)
        if paragraph and not (is_prose and _was_wrapped(paragraph[-1], line)):
            yield " ".join(paragraph)
            paragraph = []
        if is_prose:
            paragraph.append(line.strip())


def _was_wrapped(line: str, following: str) -> bool:
    return len(line) in _WRAPPED_CHARACTERS and (following[0].islower() or line[-1] not in ".!?:")


def _sentences(paragraph: str) -> list[str]:
    ends = sentence_ends(paragraph)
    return [paragraph[start:end].strip() for start, end in pairwise([0, *ends])]
