"""Questions with known answers, which measure whether a fact is usable and whether it is memorised."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mixcpt.closed_world.dice import Dice
from mixcpt.closed_world.documents import documents_of
from mixcpt.closed_world.instructions import ask, ask_free_text, ask_reverse, ask_two_hop
from mixcpt.closed_world.templates import QUESTIONS, REVERSE_QUESTIONS, REWORDED_QUESTIONS, TWO_HOP_QUESTIONS
from mixcpt.closed_world.world import Entity, Fact, World, facts_of, identifying_facts, world
from mixcpt.config import ClosedWorldTask


@dataclass(frozen=True, kw_only=True)
class WorldItem:
    """A prompt with its right answer."""

    id: str
    fact_id: str
    prompt: str
    """A question, or the beginning of a document up to the answer."""
    answer: str
    """Value of the fact; the name of the entity for reverse questions."""
    kind: str
    entity: str
    relation: str


def items(task: ClosedWorldTask) -> list[WorldItem]:
    """Return the items of a task in random order, at most one per fact; `task.limit` is not applied.

    A reverse question needs a value that no other entity of the kind has. A two-hop question needs another fact of the
    entity with such a value.
    """
    this_world = world(task.seed, task.entities)
    facts = {
        "domain": facts_of(this_world.domain),
        "general_asked": this_world.asked,
        "general_unasked": this_world.unasked,
        "updated": this_world.updated,
    }[task.about]
    dice = Dice("items", task.seed, task.about, task.form)
    prompt_of = _prompts(this_world, task.form, dice)
    prompts = [(fact, prompt_of(fact)) for fact in dice.shuffled(facts)]
    return [_item(fact, task.form, prompt) for fact, prompt in prompts if prompt]


def first_documents(seed: int, num_domain: int) -> dict[str, str]:
    """Return the first document of every entity, by `kind/name`; it is the same for every number of wordings."""
    return _first_documents(world(seed, num_domain))


def _prompts(this_world: World, form: str, dice: Dice) -> Callable[[Fact], str]:
    """Return the function from a fact to its prompt in this form, which is empty if the form is impossible."""
    match form:
        case "question":
            return lambda fact: ask(fact, dice.pick(QUESTIONS))
        case "reworded":
            return lambda fact: ask(fact, dice.pick(REWORDED_QUESTIONS))
        case "reverse":
            clues = set(_clues(this_world))
            return lambda fact: ask_reverse(fact, dice.pick(REVERSE_QUESTIONS)) if fact in clues else ""
        case "two_hop":
            by_entity = _by_entity(_clues(this_world))
            return lambda fact: _ask_two_hop(fact, by_entity.get(fact.entity, []), dice)
        case "free_text":
            return lambda fact: ask_free_text(fact.entity)
        case _:
            beginnings = _beginnings(this_world)
            return lambda fact: beginnings[fact.id]


def _clues(this_world: World) -> tuple[Fact, ...]:
    """Return the facts that identify their entity."""
    return identifying_facts(this_world.general) + identifying_facts(this_world.domain)


def _by_entity(facts: Sequence[Fact]) -> dict[str, list[Fact]]:
    by_entity: dict[str, list[Fact]] = {}
    for fact in facts:
        by_entity.setdefault(fact.entity, []).append(fact)
    return by_entity


def _ask_two_hop(fact: Fact, clues: Sequence[Fact], dice: Dice) -> str:
    others = [clue for clue in clues if clue.relation != fact.relation]
    return ask_two_hop(fact, dice.pick(others), dice.pick(TWO_HOP_QUESTIONS)) if others else ""


def _item(fact: Fact, form: str, prompt: str) -> WorldItem:
    answer = fact.entity if form == "reverse" else fact.value
    return WorldItem(
        id=f"{form}/{fact.id}",
        fact_id=fact.id,
        prompt=prompt,
        answer=answer,
        kind=fact.kind,
        entity=fact.entity,
        relation=fact.relation,
    )


def _first_documents(this_world: World) -> dict[str, str]:
    return {
        f"{entity.kind}/{entity.name}": documents_of(entity, this_world.seed, 1)[0] for entity in _entities(this_world)
    }


def _entities(this_world: World) -> tuple[Entity, ...]:
    return this_world.general + this_world.domain


def _beginnings(this_world: World) -> dict[str, str]:
    """Return the first document of the entity of every fact up to the value, by id of the fact."""
    documents = _first_documents(this_world)
    facts = facts_of(_entities(this_world))
    return {fact.id: _before_value(documents[f"{fact.kind}/{fact.entity}"], fact) for fact in facts}


def _before_value(text: str, fact: Fact) -> str:
    sentences = [f"{sentence}." for sentence in text.removesuffix(".").split(". ")]
    words = [sentence.replace(",", "").split() for sentence in sentences]
    stating = next(index for index, sentence in enumerate(words) if fact.relation in sentence)
    return " ".join([*sentences[:stating], sentences[stating].removesuffix(f" {fact.value}.")])
