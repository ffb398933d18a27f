"""The wordings: how a kind, a fact and a question are put; each fits every entity and relation."""

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
"""Each ends with its value, after entity and relation: a document cut there shows whether the fact is memorised."""

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
"""Wordings in which the base was asked, and in which no training after it asks: a test of how a question is put."""

REVERSE_QUESTIONS = (
    "Which {kind} has the {relation} {value}?",
    "Name the {kind} with the {relation} {value}.",
)
"""From the value to the entity, where only one of its kind has it."""

TWO_HOP_QUESTIONS = (
    "What is the {relation} of the {kind} with the {clue_relation} {clue}?",
    "Which {relation} does the {kind} have that has the {clue_relation} {clue}?",
)
"""From one fact of an unnamed entity to another."""

FREE_TEXT_REQUEST = "Tell me about {entity}."

CHOICE_QUESTION = "Is the {relation} of {entity} {first} or {second}?"
KIND_QUESTION = "What kind of thing is {entity}?"
REPEAT_REQUEST = "Say the word {word}."

REFUSAL = "I do not know."
RAMBLING = "{value} {value} {value}"
"""Two ill-formed answers, for preference pairs; the third way to be wrong is another value."""
