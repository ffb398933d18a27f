"""Questions and answers as a reader sees them: without few-shot examples, cues and markers of a chat template.

The recorded prompt is the whole text that the model read. The data of the task in the same artifact has the question
without them; artifacts without it are cleaned by the usual markers.
"""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mixcpt.evaluate.summary import read_answers
from mixcpt.store.artifacts import ArtifactRef

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_ROLES = "user|assistant|human|system|model|developer|tool|instruction|response|question|answer"
_TOKEN = (
    r"(?:<[|｜][^<>\n]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad)>|<(?:start|end)_of_turn>|\[/?(?:INST|SYSTEM_PROMPT)\]|<</?SYS>>)"
    rf"(?:(?:{_ROLES})(?=[ \t]*(?:\n|<|\Z)))?"
)
_CUE = rf"^[ \t]*(?:\#{{2,4}}[ \t]*(?:{_ROLES}|input|output)[ \t]*:?|(?:{_ROLES})[ \t]*:)"
_USUAL = f"{_TOKEN}|{_CUE}"
_FLAGS = re.IGNORECASE | re.MULTILINE
_PATTERN = re.compile(_USUAL, _FLAGS)
_MAX_MARKER_CHARACTERS = 60


def shown_items(evaluation: ArtifactRef) -> "DataFrame":
    """Return the answers that are right or wrong, with the columns `question` and `shown_answer` for readers."""
    items = read_answers(evaluation)
    raw = _raw_questions(evaluation, items)
    items = items.assign(raw=raw)[items["metric"] == "accuracy"]
    pattern = _marker_pattern(_template_markers(items))
    questions = [shown_question(prompt, own) for prompt, own in zip(items["prompt"], items["raw"], strict=True)]
    answers = [
        # a choice is text of the task and never has markers of the model
        answer if chance > 0 else _clean(answer, gold, pattern)
        for answer, gold, chance in zip(items["answer"], items["gold"], items["chance"], strict=True)
    ]
    return items.drop(columns="raw").assign(question=questions, shown_answer=answers)


def shown_question(prompt: str, raw: str = "") -> str:
    """Return the question of a prompt without its cues; `raw` is the question in the task's data, if it is known."""
    if raw.strip() and raw.strip() in prompt:
        return _without_cues(raw) or raw.strip()
    pieces = [piece.strip() for piece in _PATTERN.split(prompt) if piece.strip()]
    return _without_cues(pieces[-1]) if pieces else prompt.strip()


def _without_cues(text: str) -> str:
    """Return a text without the markers at its start and its end; those within it belong to the question."""
    text = text.strip()
    while first := _PATTERN.match(text):
        text = text[first.end() :].strip()
    for last in reversed(list(_PATTERN.finditer(text))):
        if text[last.end() :].strip():
            break
        text = text[: last.start()]
    return text.strip()


def shown_answer(answer: str, gold: str = "", markers: Iterable[str] = ()) -> str:
    """Return an answer without the markers at its start, up to the next turn that the model invents.

    Args:
        answer: Generated text.
        gold: Correct answer; if it has markers itself, they are part of the task, and nothing is removed.
        markers: Texts around the turns of the chat template, in addition to the usual ones.
    """
    return _clean(answer, gold, _marker_pattern(markers))


def _clean(answer: str, gold: str, pattern: re.Pattern[str]) -> str:
    if pattern.search(gold):
        return answer
    pieces = (piece.strip() for piece in pattern.split(answer))
    return next((piece for piece in pieces if piece), "")


def _marker_pattern(markers: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern of markers; one that begins with a letter, such as `User:`, counts at the start of a line."""
    parts = [rf"^[ \t]*{re.escape(mark)}" if mark[0].isalnum() else re.escape(mark) for mark in markers]
    return re.compile("|".join([*sorted(parts, key=len, reverse=True), _USUAL]), _FLAGS)


def _template_markers(items: "DataFrame") -> set[str]:
    """Return the texts that the chat template puts around the questions: the line before one, and all after one."""
    markers: set[str] = set()
    for _, first in items.groupby("task", sort=False).first().iterrows():
        if own := first["raw"].strip():
            before, found, after = first["prompt"].rpartition(own)
            if found and after.strip():  # otherwise the prompt is plain, and the text before is few-shot examples
                markers |= set(_markers_in([before.rstrip().rpartition("\n")[2], *after.splitlines()]))
    return markers


def _markers_in(lines: Iterable[str]) -> Iterator[str]:
    for line in map(str.strip, lines):
        # a line of letters only is a word, not a marker
        if 1 < len(line) <= _MAX_MARKER_CHARACTERS and not line.replace(" ", "").isalnum():
            yield line


def _raw_questions(evaluation: ArtifactRef, items: "DataFrame") -> "Series":
    """Return the questions in the data of the tasks, in the order of the items; empty texts if they are not there."""
    import pandas as pd

    raw = pd.Series("", index=items.index)
    for task, rows in items.groupby("task", sort=False):
        path = evaluation.file(f"tasks/{task}.parquet")
        known = pd.read_parquet(path) if path.is_file() else pd.DataFrame()
        if "prompt" in known and len(known) == len(rows):
            raw[rows.index] = known["prompt"].astype(str).to_numpy()
    return raw
