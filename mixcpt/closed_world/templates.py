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

CHOICE_QUESTION = "Is the {relation} of {entity} {first} or {second}?"
KIND_QUESTION = "What kind of thing is {entity}?"
REPEAT_REQUEST = "Say the word {word}."

REFUSAL = "I do not know."
RAMBLING = "{value} {value} {value}"
"""Two ill-formed answers, for preference pairs; the third way to be wrong is another value."""
