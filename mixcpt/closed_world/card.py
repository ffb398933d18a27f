"""The model card of the shipped base model, written from what was measured."""

from collections.abc import Mapping
from typing import Any

from mixcpt.closed_world.network import MAX_POSITIONS
from mixcpt.closed_world.words import DOMAIN_KINDS, GENERAL_KINDS
from mixcpt.closed_world.world import facts_of, world

_CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# The small base model of mixcpt's closed world

A Llama of {parameters:,} parameters (hidden 192, 4 layers, 6 heads, tied embeddings, {vocabulary:,} words, one token a
word) that knows the *general* part of an invented world: {num_general} entities of {num_general_kinds} kinds,
with 3 facts each. It has never read a word about the *domain* ({num_domain_kinds} further kinds, {num_domain} entities,
{num_domain_facts} facts), so whatever it knows of that later, it was taught.

## What it is for

The embedded example and the tests of mixcpt: continual pre-training that can be watched in minutes on a CPU, with known
truth for every single fact. It is of no use outside the invented world: it knows no other word.

## How it was trained

    {command}

From random weights, through mixcpt's own curation, mixture and pre-training, with next-token prediction alone:
{total_tokens:,} tokens in rows of {row_tokens}, seed {seed}, learning rate {learning_rate} ({schedule}). The text:

- documents about the general entities, {wordings} wordings each;
- {num_strangers:,} documents about strangers, whose facts are drawn anew in every document and stated twice in
  different words: to predict the second mention the model has to read;
- {num_read:,} more of them with a question behind the document, half of them in the chat form;
- questions and answers about *half* of the general facts, plain ({instruction_percent} % of the tokens) and as
  {num_dialogues:,} dialogues in the chat form: directly, and where the value tells an entity apart also in reverse and
  over two hops. The other half is read in documents and never asked.

Everything that decides the result, with versions and digests, is in `recipe.json`.

## What it scores

Greedy answers, exact match; `mixcpt world verify-base` measures again and compares.

| what | score |
|---|---|
{scores}

*With document*: an entity's document stands before the question. *Unasked reverse* and *two hop* are what such a model
cannot do with facts that it has only read (the "reversal curse"); it answers those that it was trained on.

The loss on a stranger's value is {first_loss:.2f} nats at its first mention and {second_loss:.2f} at its second.

## Prompts

Plain: the question, a newline, then the answer. Chat: `<|user|> question <|assistant|>`. Both begin with `<s>`; the
answer is one word, then `</s>`. Context: {max_positions} tokens.

## Licence

Apache-2.0. All text was generated; no data of third parties is involved.
"""


def model_card(recipe: Mapping[str, Any]) -> str:
    """Returns the model card (Markdown with the hub's header) of a recipe."""
    settings, scores = recipe["settings"], recipe["scores"]
    mixture, optimizer = settings["mixture"], settings["pretrain"]["optimizer"]
    here = world(recipe["seed"])
    return _CARD.format(
        num_general=len(here.general),
        num_general_kinds=len(GENERAL_KINDS),
        num_domain=len(here.domain),
        num_domain_kinds=len(DOMAIN_KINDS),
        num_domain_facts=len(facts_of(here.domain)),
        **settings["data"],
        **scores["reading"],
        command=recipe["command"],
        parameters=recipe["num_parameters"],
        vocabulary=recipe["num_words"],
        max_positions=MAX_POSITIONS,
        seed=recipe["seed"],
        total_tokens=recipe["tokens"],
        row_tokens=mixture["row_tokens"],
        learning_rate=optimizer["learning_rate"],
        schedule=optimizer["schedule"],
        instruction_percent=round(100 * mixture["weights"]["instructions"]),
        scores="\n".join(f"| {name.replace('_', ' ')} | {value:.3f} |" for name, value in scores["accuracy"].items()),
    )
