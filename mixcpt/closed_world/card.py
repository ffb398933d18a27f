"""The model card of the shipped base model, written from its measurements."""

from collections.abc import Mapping
from typing import Any

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
with 3 facts each. It has not read any document about the *domain* ({num_domain_kinds} further kinds,
{num_domain} entities, {num_domain_facts} facts), so it learns all facts of the domain in later training.

## What it is for

The built-in example and the tests of mixcpt: continual pre-training that takes minutes on a CPU, with a known answer
for every fact. It is of no use outside the invented world, because its vocabulary has no other words.

## How it was trained

    {command}

From random weights, with the curation, mixture and pre-training of mixcpt, by next-token prediction only:
{total_tokens:,} tokens in rows of {row_tokens}, seed {seed}, learning rate {learning_rate} ({schedule}). The text:

- documents about the general entities, {wordings} wordings each;
- {num_strangers:,} documents about one-off entities, whose facts are random in every document and stated twice in
  different words: the model must read the first mention to predict the second;
- {num_read:,} more of them with a question after the document, half of them in the chat form;
- questions and answers about *half* of the general facts, plain ({instruction_percent} % of the tokens) and as
  {num_dialogues:,} dialogues in the chat form: directly, and also in reverse and over two hops if the value identifies
  the entity. The other half occurs only in documents, never in questions.

All settings, versions and digests that decide the result are in `recipe.json`.

## Scores

Greedy answers, exact match; `mixcpt world verify-base` measures again and compares.

| task | score |
|---|---|
{scores}

*With document*: the document about the entity precedes the question. *Unasked reverse* and *two hop* ask for facts that
the model has only read; such models cannot answer them (the "reversal curse"). It answers questions of these forms that
it was trained on.

The loss on the value of a one-off entity is {first_loss:.2f} nats at its first mention and {second_loss:.2f} at its
second.

## Prompts

Plain: the question, a newline, then the answer. Chat: `<|user|> question <|assistant|>`. Both begin with `<s>`; the
answer is one word, then `</s>`. Context: {max_positions} tokens.

## Licence

Apache-2.0. All text was generated; no data of third parties is involved.
"""


def model_card(recipe: Mapping[str, Any], *, max_positions: int) -> str:
    """Return the model card (Markdown with the header of the hub) of a recipe."""
    settings, scores = recipe["settings"], recipe["scores"]
    mixture, optimizer = settings["mixture"], settings["pretrain"]["optimizer"]
    this_world = world(recipe["seed"])
    return _CARD.format(
        num_general=len(this_world.general),
        num_general_kinds=len(GENERAL_KINDS),
        num_domain=len(this_world.domain),
        num_domain_kinds=len(DOMAIN_KINDS),
        num_domain_facts=len(facts_of(this_world.domain)),
        **settings["data"],
        **scores["reading"],
        command=recipe["command"],
        parameters=recipe["num_parameters"],
        vocabulary=recipe["num_words"],
        max_positions=max_positions,
        seed=recipe["seed"],
        total_tokens=recipe["tokens"],
        row_tokens=mixture["row_tokens"],
        learning_rate=optimizer["learning_rate"],
        schedule=optimizer["schedule"],
        instruction_percent=round(100 * mixture["weights"]["instructions"]),
        scores="\n".join(f"| {name.replace('_', ' ')} | {value:.3f} |" for name, value in scores["accuracy"].items()),
    )
