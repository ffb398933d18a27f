"""Which texts to ask for: forms, passages and repetitions, until the texts have the wanted length."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product

from mixcpt.rewrite.forms import Form
from mixcpt.rewrite.passages import Passage


@dataclass(frozen=True, kw_only=True)
class Request:
    """One text to generate."""

    passage: Passage
    form: Form
    repetition: int = 0
    """Number of the text among all texts of its form and passage, from 0."""
    statement: str = ""
    """Statement about the passage that a judge decides; empty for texts."""

    @property
    def prompt(self) -> str:
        """Text of the request."""
        return self.form.request(self.passage.text, self.passage.document.title, self.statement)

    @property
    def characters(self) -> float:
        """Expected length of the text."""
        return self.form.length * len(self.passage.text)

    def key(self, generator: str, seed: int) -> str:
        """Return the identity of the text: equal passage, form, generator, seed and repetition give the same text.

        Args:
            generator: Identity of the generator and its sampling.
            seed: Seed of the run.
        """
        parts = (self.passage.digest, self.form.digest, generator, str(seed), str(self.repetition), self.statement)
        return sha256("\0".join(parts).encode()).hexdigest()


def plan_requests(passages: Sequence[Passage], forms: Sequence[Form], amount: float, seed: int) -> list[Request]:
    """Return the requests whose texts have about `amount` times the length of the passages.

    Every passage gets every form before any passage gets a form again. If the amount ends within such a round, its
    last requests are drawn by seed, so that every passage and every form has the same chance. Of equal passages
    only the first is used.
    """
    passages = list({passage.digest: passage for passage in reversed(passages)}.values())[::-1]
    wanted = amount * sum(len(passage.text) for passage in passages)
    requests: list[Request] = []
    planned = 0.0
    number_of_round = 0
    while planned < wanted and passages and forms:
        for request in _round(passages, forms, number_of_round, seed):
            if planned >= wanted:
                break
            requests.append(request)
            planned += request.characters
        number_of_round += 1
    return requests


def _round(passages: Sequence[Passage], forms: Sequence[Form], number: int, seed: int) -> list[Request]:
    """Return one request for every passage and every text that its forms have per round, in random order."""
    requests = []
    for passage, form in product(passages, forms):
        numbers = range(number * form.per_passage, (number + 1) * form.per_passage)
        requests += [Request(passage=passage, form=form, repetition=repetition) for repetition in numbers]
    return sorted(requests, key=lambda request: request.key("order", seed))
