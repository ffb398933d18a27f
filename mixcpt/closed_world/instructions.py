"""General instructions and preference pairs about the asked half of the general facts, never about other facts."""

from collections.abc import Iterator
from itertools import chain

from mixcpt.closed_world import templates
from mixcpt.closed_world.dice import Dice
from mixcpt.closed_world.documents import documents_of
from mixcpt.closed_world.words import VALUES
from mixcpt.closed_world.world import Fact, World, identifying_facts

Record = dict[str, str]

WORDINGS_PER_FACT = 4
_KIND_QUESTION_SHARE = 0.5


def ask(fact: Fact, template: str) -> str:
    """Return the question about a fact."""
    return template.format(entity=fact.entity, relation=fact.relation)


def ask_reverse(fact: Fact, template: str) -> str:
    """Return the question about the entity of a fact."""
    return template.format(kind=fact.kind, relation=fact.relation, value=fact.value)


def ask_two_hop(fact: Fact, clue: Fact, template: str) -> str:
    """Return the question about a fact of an entity that is described by another fact instead of its name."""
    return template.format(kind=fact.kind, relation=fact.relation, clue_relation=clue.relation, clue=clue.value)


def ask_free_text(entity: str) -> str:
    """Return the request to write a text about an entity."""
    return templates.FREE_TEXT_REQUEST.format(entity=entity)


def instructions(world: World) -> Iterator[Record]:
    """Yield questions about the asked facts in several wordings, and a few requests of other forms."""
    dice = Dice("instructions", world.seed)
    for fact in world.asked:
        for number, template in enumerate(dice.sample(templates.QUESTIONS, WORDINGS_PER_FACT)):
            yield _instruction(f"question/{fact.id}/{number}", ask(fact, template), fact.value)
        yield _choice(fact, dice)
    for entity in world.general:
        if dice.chance(_KIND_QUESTION_SHARE):
            yield _instruction(f"kind/{entity.name}", templates.KIND_QUESTION.format(entity=entity.name), entity.kind)
    for word in chain.from_iterable(VALUES.values()):
        yield _instruction(f"repeat/{word}", templates.REPEAT_REQUEST.format(word=word), word)
    yield from _roundabout(world)


def reworded_instructions(world: World) -> Iterator[Record]:
    """Yield questions about the asked facts in wordings that `instructions` never uses, for the base model only."""
    for fact in world.asked:
        for number, template in enumerate(templates.REWORDED_QUESTIONS):
            yield _instruction(f"reworded/{fact.id}/{number}", ask(fact, template), fact.value)


def _roundabout(world: World) -> Iterator[Record]:
    """Yield reverse questions, two-hop questions and requests for a free text, all about asked facts."""
    dice = Dice("roundabout", world.seed)
    asked = {fact.id for fact in world.asked}
    clues = [fact for fact in identifying_facts(world.general) if fact.id in asked]
    for clue in clues:
        yield _instruction(f"reverse/{clue.id}", ask_reverse(clue, dice.pick(templates.REVERSE_QUESTIONS)), clue.entity)
    facts_of = {entity.name: entity.facts for entity in world.general}
    for clue in clues:
        for fact in facts_of[clue.entity]:
            if fact.id not in asked or fact == clue:
                continue
            prompt = ask_two_hop(fact, clue, dice.pick(templates.TWO_HOP_QUESTIONS))
            yield _instruction(f"two-hop/{fact.id}/{clue.relation}", prompt, fact.value)
    for entity in world.general:
        if all(fact.id in asked for fact in entity.facts):
            text = documents_of(entity, world.seed, 1)[0]
            yield _instruction(f"free-text/{entity.kind}/{entity.name}", ask_free_text(entity.name), text)


def preferences(world: World) -> Iterator[Record]:
    """Yield one pair for every asked fact: the right answer, and a wrong or ill-formed one."""
    dice = Dice("preferences", world.seed)
    for fact in world.asked:
        rejected = dice.pick((_other_value(fact, dice), templates.RAMBLING.format(value=fact.value), templates.REFUSAL))
        yield {
            "id": f"preference/{fact.id}",
            "prompt": ask(fact, dice.pick(templates.QUESTIONS)),
            "chosen": fact.value,
            "rejected": rejected,
        }


def _instruction(identifier: str, prompt: str, response: str) -> Record:
    return {"id": identifier, "prompt": prompt, "response": response}


def _choice(fact: Fact, dice: Dice) -> Record:
    first, second = dice.shuffled((fact.value, _other_value(fact, dice)))
    prompt = templates.CHOICE_QUESTION.format(relation=fact.relation, entity=fact.entity, first=first, second=second)
    return _instruction(f"choice/{fact.id}", prompt, fact.value)


def _other_value(fact: Fact, dice: Dice) -> str:
    return dice.pick([value for value in VALUES[fact.values] if value != fact.value])
