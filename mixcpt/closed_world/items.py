"""Questions with known answers: is a fact usable (it is asked, in one way or another), is it memorised?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mixcpt.closed_world.dice import Dice
from mixcpt.closed_world.documents import documents_of
from mixcpt.closed_world.instructions import ask, ask_free_text, ask_reverse, ask_two_hop
from mixcpt.closed_world.templates import QUESTIONS, REVERSE_QUESTIONS, REWORDED_QUESTIONS, TWO_HOP_QUESTIONS
from mixcpt.closed_world.world import Entity, Fact, World, facts_of, telling_apart, world
from mixcpt.config import ClosedWorldTask


@dataclass(frozen=True)
class WorldItem:
    """A prompt whose right answer is known."""

    id: str
    fact_id: str
    prompt: str
    """A question; or the beginning of a document, cut right before the answer."""
    answer: str
    """A value; the name of an entity where it is asked in reverse."""
    kind: str
    entity: str
    relation: str


def items(task: ClosedWorldTask) -> list[WorldItem]:
    """Returns the items of a task, at most one a fact, in random order; who knows the split draws a `limit` of them.

    Facts are asked in reverse where no other entity of the kind has the value, and over two hops where another fact
    of the entity tells it apart in the same way.
    """
    here = world(task.seed, task.entities)
    facts = {
        "domain": facts_of(here.domain),
        "general_asked": here.asked,
        "general_unasked": here.unasked,
        "updated": here.updated,
    }[task.about]
    dice = Dice("items", task.seed, task.about, task.form)
    prompt_of = _prompts(here, task.form, dice)
    prompts = [(fact, prompt_of(fact)) for fact in dice.shuffled(facts)]
    return [_item(fact, task.form, prompt) for fact, prompt in prompts if prompt]


def first_documents(seed: int, num_domain: int) -> dict[str, str]:
    """Returns for each entity, as `kind/name`, its first document: the one that every number of wordings has."""
    return _first_documents(world(seed, num_domain))


def _prompts(here: World, form: str, dice: Dice) -> Callable[[Fact], str]:
    """Returns what makes the prompt of a fact in this form; it is empty where the fact cannot be asked so."""
    match form:
        case "question":
            return lambda fact: ask(fact, dice.pick(QUESTIONS))
        case "reworded":
            return lambda fact: ask(fact, dice.pick(REWORDED_QUESTIONS))
        case "reverse":
            telling = set(_telling_apart(here))
            return lambda fact: ask_reverse(fact, dice.pick(REVERSE_QUESTIONS)) if fact in telling else ""
        case "two_hop":
            clues = _by_entity(_telling_apart(here))
            return lambda fact: _ask_two_hop(fact, clues.get(fact.entity, []), dice)
        case "free_text":
            return lambda fact: ask_free_text(fact.entity)
        case _:
            beginnings = _beginnings(here)
            return lambda fact: beginnings[fact.id]


def _telling_apart(here: World) -> tuple[Fact, ...]:
    return telling_apart(here.general) + telling_apart(here.domain)


def _by_entity(facts: Sequence[Fact]) -> dict[str, list[Fact]]:
    found: dict[str, list[Fact]] = {}
    for fact in facts:
        found.setdefault(fact.entity, []).append(fact)
    return found


def _ask_two_hop(fact: Fact, clues: Sequence[Fact], dice: Dice) -> str:
    others = [clue for clue in clues if clue.relation != fact.relation]
    return ask_two_hop(fact, dice.pick(others), dice.pick(TWO_HOP_QUESTIONS)) if others else ""


def _item(fact: Fact, form: str, prompt: str) -> WorldItem:
    answer = fact.entity if form == "reverse" else fact.value
    return WorldItem(f"{form}/{fact.id}", fact.id, prompt, answer, fact.kind, fact.entity, fact.relation)


def _first_documents(here: World) -> dict[str, str]:
    return {f"{entity.kind}/{entity.name}": documents_of(entity, here.seed, 1)[0] for entity in _entities(here)}


def _entities(here: World) -> tuple[Entity, ...]:
    return here.general + here.domain


def _beginnings(here: World) -> dict[str, str]:
    """Returns for each fact the beginning of its entity's first document."""
    documents = _first_documents(here)
    return {
        fact.id: _before_value(documents[f"{entity.kind}/{entity.name}"], fact)
        for entity in _entities(here)
        for fact in entity.facts
    }


def _before_value(text: str, fact: Fact) -> str:
    sentences = [f"{sentence}." for sentence in text.removesuffix(".").split(". ")]
    stating = next(
        index for index, sentence in enumerate(sentences) if fact.relation in sentence.replace(",", "").split()
    )
    return " ".join([*sentences[:stating], sentences[stating].removesuffix(f" {fact.value}.")])
