"""Reading-comprehension tasks mined from raw documents by patterns, in the manner of AdaptLLM (arXiv 2309.09530).

Every answer stands in the document, but for the fixed labels of entailment; so a task teaches to read, not to invent.
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from mixcpt.config import Form

MAX_TASKS = 6
"""Tasks that are put to one document."""
_MAX_SENTENCE_CHARACTERS = 400
_MAX_TITLE_CHARACTERS = 100
_PIECE = re.compile(r"[^.!?\n]+[.!?]?")  # with an end that may be missing, so that no text is scanned twice
_LABELS = {"Therefore": "Yes", "Thus": "Yes", "Hence": "Yes", "However": "No", "Moreover": "Maybe"}
"""Whether a sentence follows from the one before it, by the word that connects them."""


@dataclass(frozen=True, slots=True)
class MinedTask:
    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class _Pattern:
    """A regular expression over one sentence, and how its groups become a question and an answer."""

    kind: str
    expression: re.Pattern[str]
    wordings: tuple[str, ...]
    answer: str


_NAME = r"(?!(?:This|That|These|Those|It|There|He|She|They|We|You|Here)\b)(?P<name>[\w'-]+(?: [\w'-]+){0,3}?)"
_PATTERNS = (
    _Pattern(
        "relation",
        re.compile(rf"^The (?P<relation>[\w-]+(?: [\w-]+)?) of {_NAME} is (?P<value>[^,;]+)$"),
        ("What is the {relation} of {name}?", "Tell me the {relation} of {name}."),
        "{value}",
    ),
    _Pattern(
        "relation",
        re.compile(rf"^{_NAME} has the (?P<relation>[\w-]+) (?P<value>[\w-]+)$"),
        ("Which {relation} does {name} have?", "What is the {relation} of {name}?"),
        "{value}",
    ),
    _Pattern(
        "definition",
        re.compile(rf"^(?:An? |The )?{_NAME} is (?P<value>an? [^,;]+)$"),
        ("What is {name}?",),
        "{value}",
    ),
    _Pattern(
        "cause",
        re.compile(r"^(?P<effect>[A-Z][^,;]+?),? because (?P<cause>[^;]+)$"),
        ("Why? {effect}.", "What is the reason? {effect}."),
        "because {cause}",
    ),
    _Pattern(
        "cause",
        re.compile(r"^(?P<effect>[A-Z][^,;]+?) (?:is|are) due to (?P<cause>[^;]+)$"),
        ("What is {effect} due to?",),
        "{cause}",
    ),
)
_PARAPHRASE = re.compile(r"^(?:In other words|That is|Put simply), (?P<again>.+)$")
_CONNECTIVE = re.compile(rf"^(?P<word>{'|'.join(_LABELS)}), (?P<hypothesis>.+)$")
_QUESTION_KINDS = {"relation", "definition", "cause", "completion"}


def mine_tasks(text: str, *, seed: int) -> list[MinedTask]:
    """Returns at most `MAX_TASKS` tasks, drawn and worded by text and seed alone."""
    generator = random.Random(hashlib.sha256(f"{seed}\n{text}".encode()).digest())
    sentences = _sentences(text)
    tasks = [*_of_title(text), *_of_sentences(sentences, generator.choice), *_of_neighbours(sentences)]
    tasks = list(dict.fromkeys(tasks))
    drawn = generator.sample(range(len(tasks)), len(tasks))
    drawn.sort(key=lambda index: tasks[index].kind == "completion")  # of what anything yields, what is still missing
    return [tasks[index] for index in sorted(drawn[:MAX_TASKS])]


def compose(text: str, form: Form, separator: str, *, seed: int) -> tuple[str, int]:
    """Returns the document in a form, and the number of tasks in it; one that yields no task stays as it is.

    Args:
        text: A document.
        form: `text` as it is; `reading` with all tasks behind it; `questions_after` and `questions_before` with plain
            questions and their answers behind it or before it.
        separator: Stands between question and answer, as it does in instructions.
        seed: Seed of the choice of tasks.
    """
    if form == "text":
        return text, 0
    tasks = mine_tasks(text, seed=seed)
    if form != "reading":
        tasks = [task for task in tasks if task.kind in _QUESTION_KINDS]
    blocks = [f"{task.question}{separator}{task.answer}" for task in tasks]
    return "\n\n".join([*blocks, text] if form == "questions_before" else [text, *blocks]), len(tasks)


def _sentences(text: str) -> list[str]:
    """Returns the whole sentences that are not too long."""
    pieces = (match.group().strip() for match in _PIECE.finditer(text))
    return [piece for piece in pieces if piece[-1:] in (".", "!", "?") and len(piece) <= _MAX_SENTENCE_CHARACTERS]


def _of_title(text: str) -> Iterator[MinedTask]:
    """Yields what a text with a short first line is about."""
    title, _, rest = text.partition("\n")
    title = title.lstrip("# ").strip()
    sentences = _sentences(rest[: 4 * _MAX_SENTENCE_CHARACTERS])
    if sentences and title and title[-1] not in ".!?" and len(title) <= _MAX_TITLE_CHARACTERS:
        yield MinedTask("summary", f"{sentences[0]} What is this about?", title)


def _of_sentences(sentences: list[str], choose: Callable[[tuple[str, ...]], str]) -> Iterator[MinedTask]:
    """Yields a question for every sentence of a known form, and the end of every other one from its beginning."""
    for sentence in sentences:
        plain = sentence[:-1]
        matches = ((pattern, pattern.expression.match(plain)) for pattern in _PATTERNS)
        pattern, match = next(((pattern, match) for pattern, match in matches if match), (None, None))
        if pattern and match:
            groups = match.groupdict()
            yield MinedTask(pattern.kind, choose(pattern.wordings).format(**groups), pattern.answer.format(**groups))
        elif len(words := plain.split()) >= 6 and not _CONNECTIVE.match(plain):
            cut = max(3, 2 * len(words) // 3)
            yield MinedTask("completion", " ".join(words[:cut]), " ".join(words[cut:]))


def _of_neighbours(sentences: list[str]) -> Iterator[MinedTask]:
    """Yields what one sentence says of the one before it: the same in other words, or something that follows."""
    for before, sentence in pairwise(sentences):
        if match := _PARAPHRASE.match(sentence):
            yield MinedTask("paraphrase", f"Say in other words: {before}", match["again"])
        elif match := _CONNECTIVE.match(sentence):
            question = f"{before} Does it follow that {match['hypothesis']}"
            yield MinedTask("entailment", question.rstrip(".!") + "?", _LABELS[match["word"]])
