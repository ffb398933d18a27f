"""Turn answers of a generator into texts to train on: parse, check by rules, let a judge decide, count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mixcpt.config.rewrite import FaithfulnessConfig
from mixcpt.rewrite.checks import Rejection, Vocabulary, check
from mixcpt.rewrite.forms import Form
from mixcpt.rewrite.memory import Generated
from mixcpt.rewrite.passages import Passage
from mixcpt.rewrite.requests import Request
from mixcpt.rewrite.statements import alternating_pairs, question_pairs, statements, without_preface

_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text about a passage: an answer of a generator, or one pair of question and answer of it."""

    request: Request
    key: str
    """Key of the request."""
    part: int
    """Number of the text in its answer."""
    text: str
    is_question: bool
    rejection: Rejection | None = None
    """Why it is not trained on; None for a text that is."""

    @property
    def id(self) -> str:
        """Identifier in the corpus: document, passage, form, repetition and part."""
        passage, form = self.request.passage, self.request.form
        return f"{passage.document.id}~{passage.number}~{form.name}~{self.request.repetition}~{self.part}"

    def statements(self) -> list[str]:
        """Return the statements of the text: a question with its answer, or every sentence."""
        return [self.text] if self.is_question else list(statements(self.text))


def parse(request: Request, answer: Generated, separator: str) -> list[Text]:
    """Return the texts of an answer, not checked yet, except for texts that are cut or cannot be parsed.

    Args:
        request: The request that was answered.
        answer: The answer of the generator.
        separator: Text between a question and its answer, as in the mixture.
    """
    content = without_preface(answer.text)
    form = request.form
    if form.content == "text":
        parts = [content]
    else:
        pairs = question_pairs(content) if form.content == "questions" else alternating_pairs(content)
        parts = [f"{question}{separator}{reply}" for question, reply in pairs]
    texts = [
        Text(request=request, key=answer.key, part=number, text=part, is_question=form.content != "text")
        for number, part in enumerate(parts)
    ]
    if not texts:
        nothing = Rejection("no questions", content[:_SHOWN])
        return [Text(request=request, key=answer.key, part=0, text=content, is_question=True, rejection=nothing)]
    if not answer.is_whole:
        texts[-1] = replace(texts[-1], rejection=Rejection("cut", texts[-1].text[-_SHOWN:]))
    return texts


def check_texts(
    answers: Sequence[tuple[Request, Generated]],
    *,
    vocabulary: Vocabulary,
    config: FaithfulnessConfig,
    separator: str,
) -> list[Text]:
    """Return the texts of all answers, with the rejections of the rules, in the order of the answers."""
    accepted: defaultdict[str, list[str]] = defaultdict(list)
    texts: list[Text] = []
    for request, answer in answers:
        earlier = accepted[request.passage.digest]
        for text in parse(request, answer, separator):
            rejection = text.rejection or check(
                text.text, request, earlier=earlier, vocabulary=vocabulary, config=config
            )
            if rejection is None:
                earlier.append(text.text)
            texts.append(replace(text, rejection=rejection))
    return texts


def judge_requests(texts: Sequence[Text], judge: Form) -> dict[tuple[str, int], list[Request]]:
    """Return the questions to a judge about every text that passed the rules, by key and part."""
    return {
        (text.key, text.part): [_about(text.request.passage, statement, judge) for statement in text.statements()]
        for text in texts
        if text.rejection is None
    }


def judged(text: Text, verdicts: Sequence[tuple[str, bool]]) -> Text:
    """Return a text with a rejection if the judge finds one of its statements unsupported."""
    unsupported = next((statement for statement, is_supported in verdicts if not is_supported), None)
    return text if unsupported is None else replace(text, rejection=Rejection("not supported", unsupported))


def _about(passage: Passage, statement: str, judge: Form) -> Request:
    return Request(passage=passage, form=judge, statement=statement)
