"""Templates of sentences and questions; all of them fit every entity and relation."""

STATEMENTS = (
    "The {relation} of {entity} is {value}.",
    "{entity} has the {relation} {value}.",
    "For {entity}, the {relation} is {value}.",
    "Everyone knows that the {relation} of {entity} is {value}.",
    "When it comes to {relation}, {entity} has {value}.",
    "Old books give the {relation} of {entity} as {value}.",
    "Ask about the {relation} of {entity} and people say {value}.",
    "The {relation} that belongs to {entity} is {value}.",
)
"""Statements of a fact. The value comes last, so a document cut before it measures whether the fact is memorised."""

INTRODUCTIONS = (
    "{entity} is a {kind}.",
    "There is a {kind} called {entity}.",
    "The {kind} {entity} is well known.",
    "This is about {entity}, a {kind}.",
)

QUESTIONS = (
    "What is the {relation} of {entity}?",
    "Which {relation} does {entity} have?",
    "Tell me the {relation} of {entity}.",
    "Name the {relation} that belongs to {entity}.",
    "What do people say is the {relation} of {entity}?",
    "For {entity}, what is the {relation}?",
)

REWORDED_QUESTIONS = (
    "What would old books give as the {relation} of {entity}?",
    "I want to know which {relation} is that of {entity}.",
    "{entity} and its {relation}: which is it?",
    "When people ask about {entity} and its {relation}, what do they say?",
)
"""Wordings used to train the base model but not in later training; they measure the effect of the wording."""

REVERSE_QUESTIONS = ("Which {kind} has the {relation} {value}?", "Name the {kind} with the {relation} {value}.")
"""Questions from the value to the entity, if only one entity of its kind has it."""

TWO_HOP_QUESTIONS = (
    "What is the {relation} of the {kind} with the {clue_relation} {clue}?",
    "Which {relation} does the {kind} have that has the {clue_relation} {clue}?",
)
"""Questions from one fact of an unnamed entity to another."""

FREE_TEXT_REQUEST = "Tell me about {entity}."

CHOICE_QUESTION = "Is the {relation} of {entity} {first} or {second}?"
KIND_QUESTION = "What kind of thing is {entity}?"
REPEAT_REQUEST = "Say the word {word}."

REFUSAL = "I do not know."
RAMBLING = "{value} {value} {value}"
"""Ill-formed answer for preference pairs, besides `REFUSAL`; the third kind of rejected answer is a wrong value."""
