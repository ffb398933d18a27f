"""Parse generated texts: pairs of question and answer, and the statements that a check judges one by one."""

import re
from collections.abc import Iterator

from mixcpt.mixture.cuts import sentence_ends

Pair = tuple[str, str]

_ASKING = re.compile(r"[\W\d]*(?:q|question|user|student|frage|pregunta|问|问题)\s*\d*\s*\**[:：]\W*", re.IGNORECASE)
_ANSWERING = re.compile(
    r"[\W\d]*(?:a|answer|assistant|teacher|antwort|respuesta|答|答案)\s*\d*\s*\**[:：]\W*", re.IGNORECASE
)
_BULLET = re.compile(r"\s*(?:[-*•]|\d+[.)])\s+")
_QUESTION_MARK = re.compile(r"[?？؟]\W*")
_PREFACE = re.compile(
    r"(?:sure|certainly|of course|okay|here (?:is|are)|here's|below (?:is|are))\b[^\n]*\n+", re.IGNORECASE
)


def without_preface(text: str) -> str:
    """Return a text without the remark that chat models put before it, such as `Sure, here is the text:`."""
    return _PREFACE.sub("", text.strip(), count=1).strip()


def question_pairs(text: str) -> list[Pair]:
    """Return the pairs of question and answer of a text, with or without labels such as `Q:` and numbers.

    A question is a line with a label of a question or with a question mark that no label of an answer precedes. The
    following lines, or the rest of the line, are its answer. Questions without an answer are left out.
    """
    pairs: list[tuple[str, list[str]]] = []
    for line in filter(str.strip, text.splitlines()):
        if question := _question(line):
            place = question.end()
            pairs.append((_bare(line[:place], _ASKING), [_bare(line[place:], _ANSWERING)]))
        elif pairs:
            pairs[-1][1].append(_bare(line, _ANSWERING))
    complete = [(question, " ".join(filter(None, answer))) for question, answer in pairs]
    return [(question, answer) for question, answer in complete if question and answer]


def alternating_pairs(text: str) -> list[Pair]:
    """Return the pairs of a text whose lines are questions and answers in turn; an incomplete last pair is left out."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return list(zip(lines[::2], lines[1::2], strict=False))


def statements(text: str) -> Iterator[str]:
    """Yield the sentences of a text, line by line, without the marks of lists."""
    for line in filter(str.strip, text.splitlines()):
        start = 0
        for end in sentence_ends(line):
            if sentence := _BULLET.sub("", line[start:end].strip(), count=1):
                yield sentence
            start = end


def _question(line: str) -> re.Match[str] | None:
    """Return a match that ends with the question of a line; None for a line that asks nothing."""
    if _ANSWERING.match(line):
        return None
    marks = list(_QUESTION_MARK.finditer(line))
    if marks:
        return marks[-1]
    return re.compile(".*").match(line) if _ASKING.match(line) else None


def _bare(text: str, label: re.Pattern[str]) -> str:
    unlabelled = label.sub("", text.strip(), count=1) if label.match(text.strip()) else text.strip()
    return _BULLET.sub("", unlabelled, count=1).strip(" *")
