"""General instructions and preference pairs: they ask for the asked half of the general facts, never for another."""

from collections.abc import Iterator

from mixcpt.closed_world.dice import Dice
from mixcpt.closed_world.templates import (
    CHOICE_QUESTION,
    KIND_QUESTION,
    QUESTIONS,
    RAMBLING,
    REFUSAL,
    REPEAT_REQUEST,
)
from mixcpt.closed_world.words import VALUES
from mixcpt.closed_world.world import Fact, World

Record = dict[str, str]

WORDINGS_PER_FACT = 4
_KIND_QUESTION_SHARE = 0.5


def ask(fact: Fact, template: str) -> str:
    """Returns the question for a fact."""
    return template.format(entity=fact.entity, relation=fact.relation)


def instructions(world: World) -> Iterator[Record]:
    """Yields questions for the asked facts in several wordings, and a few requests of other forms."""
    dice = Dice("instructions", world.seed)
    for fact in world.asked:
        for number, template in enumerate(dice.sample(QUESTIONS, WORDINGS_PER_FACT)):
            yield _instruction(f"question/{fact.id}/{number}", ask(fact, template), fact.value)
        yield _choice(fact, dice)
    for entity in world.general:
        if dice.chance(_KIND_QUESTION_SHARE):
            yield _instruction(f"kind/{entity.name}", KIND_QUESTION.format(entity=entity.name), entity.kind)
    for word in (word for words in VALUES.values() for word in words):
        yield _instruction(f"repeat/{word}", REPEAT_REQUEST.format(word=word), word)


def preferences(world: World) -> Iterator[Record]:
    """Yields one pair for each asked fact: the right answer before a wrong or an ill-formed one."""
    dice = Dice("preferences", world.seed)
    for fact in world.asked:
        rejected = dice.pick((_other_value(fact, dice), RAMBLING.format(value=fact.value), REFUSAL))
        yield {
            "id": f"preference/{fact.id}",
            "prompt": ask(fact, dice.pick(QUESTIONS)),
            "chosen": fact.value,
            "rejected": rejected,
        }


def _instruction(identifier: str, prompt: str, response: str) -> Record:
    return {"id": identifier, "prompt": prompt, "response": response}


def _choice(fact: Fact, dice: Dice) -> Record:
    first, second = dice.shuffled((fact.value, _other_value(fact, dice)))
    prompt = CHOICE_QUESTION.format(relation=fact.relation, entity=fact.entity, first=first, second=second)
    return _instruction(f"choice/{fact.id}", prompt, fact.value)


def _other_value(fact: Fact, dice: Dice) -> str:
    return dice.pick([value for value in VALUES[fact.values] if value != fact.value])
