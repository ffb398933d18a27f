"""Questions with known answers: is a fact usable (it is asked), is it memorised (a document is cut before it)?"""

from dataclasses import dataclass

from mixcpt.closed_world.dice import Dice
from mixcpt.closed_world.documents import documents_of
from mixcpt.closed_world.instructions import ask
from mixcpt.closed_world.templates import QUESTIONS
from mixcpt.closed_world.world import Fact, World, facts_of, world
from mixcpt.config import ClosedWorldTask


@dataclass(frozen=True)
class WorldItem:
    """A prompt whose right answer is one known word."""

    id: str
    fact_id: str
    prompt: str
    """A question; or the beginning of a document, cut right before the answer."""
    answer: str
    kind: str
    entity: str
    relation: str


def items(task: ClosedWorldTask) -> list[WorldItem]:
    """Returns the items of a task, one a fact, in random order; `limit` is for those to draw who know the split."""
    here = world(task.seed)
    facts = {"domain": facts_of(here.domain), "general_asked": here.asked, "general_unasked": here.unasked}[task.about]
    dice = Dice("items", task.seed, task.about, task.form)
    chosen = dice.shuffled(facts)
    if task.form == "question":
        prompts = [ask(fact, dice.pick(QUESTIONS)) for fact in chosen]
    else:
        beginnings = _beginnings(here)
        prompts = [beginnings[fact.id] for fact in chosen]
    return [_item(fact, task.form, prompt) for fact, prompt in zip(chosen, prompts, strict=True)]


def first_documents(seed: int) -> dict[str, str]:
    """Returns for each entity, as `kind/name`, its first document: the one that every number of wordings has."""
    here = world(seed)
    return {f"{entity.kind}/{entity.name}": documents_of(entity, seed, 1)[0] for entity in here.general + here.domain}


def _item(fact: Fact, form: str, prompt: str) -> WorldItem:
    return WorldItem(f"{form}/{fact.id}", fact.id, prompt, fact.value, fact.kind, fact.entity, fact.relation)


def _beginnings(here: World) -> dict[str, str]:
    """Returns for each fact the beginning of its entity's first document."""
    documents = first_documents(here.seed)
    return {
        fact.id: _before_value(documents[f"{entity.kind}/{entity.name}"], fact)
        for entity in here.general + here.domain
        for fact in entity.facts
    }


def _before_value(text: str, fact: Fact) -> str:
    sentences = [f"{sentence}." for sentence in text.removesuffix(".").split(". ")]
    stating = next(
        index for index, sentence in enumerate(sentences) if fact.relation in sentence.replace(",", "").split()
    )
    return " ".join([*sentences[:stating], sentences[stating].removesuffix(f" {fact.value}.")])
