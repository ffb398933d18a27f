"""Turn one sentence into a question by its form: relations, definitions, causes, and the end of any other (cloze).

The wordings use short common words, mostly words of the closed world, so that a model with a small vocabulary can
read them.
"""

import re
from collections.abc import Set
from dataclasses import dataclass

from mixcpt.closed_world.dice import Dice

_NOT_IN_NAME = (
    "this|that|these|those|it|its|they|them|their|he|him|his|she|her|we|us|our|you|your|i|my|one|ones|such|some|many|"
    "most|both|each|another|other|others|there|here|then|now|thus|also|so|if|when|where|while|who|whom|whose|which|"
    "what|why|how|because|although|though|since|as|and|or|but|nor|not|no|the|an?|of|in|on|at|by|to|from|with|into|"
    "about|for|than|is|are|was|were|be|been|being|has|have|had|do|does|did|can|could|may|might|will|would|shall|"
    "should|must|only|just|first|second|third|next|last|same|following|former|latter|above|below|everyone|everything"
)
_WORD = rf"(?!(?:{_NOT_IN_NAME})\b)[^\W_][\w’'-]*"
_ARTICLE = r"(?:(?:the|an?) )?"
_NAME = rf"{_ARTICLE}{_WORD}(?: {_WORD}){{0,3}}"
_LONG_NAME = rf"{_NAME}(?: of {_NAME})?"
_RELATION = rf"{_WORD}(?: {_WORD}){{0,2}}"
_NOUN = r"(?![\w’'-]*(?:\w{2}[^\We]ed|\w{4}ly|shown)$)[\w’'-]+$"
"""One last word that is neither a participle nor an adverb."""
_PHRASE = r"(?:an?|the|to|that|about|approximately|two|three|four|five|[A-Z\d][\w.]*)\b [^;:]+"
_VALUE = rf"(?P<value>(?!.*, (?:but|while|whereas|so)\b|[^,]*, and\b)(?:{_PHRASE}|{_NOUN}))"
"""A noun or a phrase without a second statement after it."""
_IS = r"(?P<verb>is|are|was|were)"
_OFTEN = r"(?:(?:also|often|commonly|usually|sometimes|generally|largely|mainly|primarily) )?"

_LEAD = re.compile(
    r"(?:However|Therefore|Thus|Hence|Moreover|Furthermore|For example|For instance|In fact|In general|In addition|"
    r"Similarly|Finally|Of course|Indeed), |Everyone knows that |It is (?:well )?known that "
)
"""Words before a statement that are not part of it."""
_NOT_BY_ITSELF = re.compile(
    r"(?:This|That|These|Those|It|Its|They|Their|He|His|She|Her|We|Our|You|Your|I|My|One|Some|Many|Most|Both|Such|"
    r"Another|Other|Others|There|Here|Then|And|But|Or|So|Also|As|In|On|At|Instead|First|Second|Third|Next|Last|"
    r"View|Watch|See|Visit|Click|Read|Note|Consider|Imagine|Let|Think|Recall|Look|Try|Place|Answer)\b"
)
"""Beginning of a sentence that depends on the one before it, starts with an aside, or addresses the reader."""
_THERE_IS = re.compile(r"There is an? ")
_CAUSE = re.compile(r"(?P<effect>[^;:]{10,}?)(?:,(?=[^,]*$))? (?P<cause>(?:because|so that) [^;:]+)$")
_NO_EFFECT = re.compile(
    r"(?:If|When|While|Although|Since|Unless|Just)\b|[\w’'-]+,|"
    r".*(?:,|, \w+|\b(?:not|just|but|and|or|which|that|only|mainly|mostly|partly|largely|primarily|exclusively))$"
)
"""Text that begins with an aside or a condition, or is incomplete."""
_TAKES_NOUN = re.compile(r"of|in|into|from|by|with|between|through|during|within|for|called|named|say")
"""Words followed by a noun that can be the answer to a question."""
_TAKES_NOUN_PHRASE = re.compile(r"is|are|was|were|has|have|to|on|at|about|as")
"""Words followed by such a noun if an article or a number comes next."""
_BEGINS_NOUN_PHRASE = re.compile(r"an?|the|two|three|four|five")
_NO_ANSWER = re.compile(
    r"(?:which|whom|whose|that|what|how|where|order|addition|fact|part|turn|general|particular|contrast|example|"
    r"instance|it|them|this|these|those|him|her|us|you|each other|one another|too|so|now|very)\b|"
    r".*(?:[,;:()]|\b(?:is|are|was|were|has|have|had|can|could|may|might|will|would|should|must|that|which|who)\b)"
)
"""Text in the place of a noun that is not an answer."""
_MAX_BLANK_WORDS = 6
_MIN_CLOZE_WORDS = 3


@dataclass(frozen=True, slots=True)
class MinedTask:
    """A question with its answer in the words of the document."""

    kind: str
    question: str
    answer: str


def _pattern(
    kind: str, expression: str, *wordings: str, answer: str = "{value}"
) -> tuple[str, re.Pattern[str], tuple[str, ...], str]:
    """Return kind and form of a sentence, with templates that turn its groups into a question and an answer."""
    return kind, re.compile(rf"{expression}$"), wordings, answer


_PATTERNS = (
    _pattern(
        "definition",
        rf"(?P<name>(?i:{_LONG_NAME})) {_IS} {_OFTEN}(?:called|known as|termed|named|referred to as) "
        r"(?P<value>[^,;:()]{2,60})",
        "What {verb} {name} called?",
    ),
    _pattern(
        "relation",
        rf"(?i:the) (?P<relation>{_RELATION}) of (?P<name>{_NAME}) {_IS} {_VALUE}",
        "What {verb} the {relation} of {name}?",
        "Tell me the {relation} of {name}.",
    ),
    _pattern(
        "relation",
        rf"(?P<name>(?i:{_ARTICLE}){_WORD}(?: {_WORD}){{0,2}}['’]s {_RELATION}) {_IS} {_VALUE}",
        "What {verb} {name}?",
    ),
    _pattern(
        "relation",
        rf"(?i:the) (?P<relation>(?!fact|idea|belief|notion|claim|view|way|extent){_RELATION}) that "
        rf"(?P<clause>{_WORD}(?:(?! (?:is|are|was|were) )[^,;:])*) {_IS} {_VALUE}",
        "What {verb} the {relation} that {clause}?",
        "Name the {relation} that {clause}.",
    ),
    _pattern(
        "relation",
        rf"(?P<name>(?=[A-Z]){_WORD}) has the (?P<relation>(?!\w+est\b|right\b|least\b){_WORD}) (?P<value>{_NOUN})",
        "What is the {relation} of {name}?",
        "Which {relation} does {name} have?",
    ),
    _pattern(
        "relation",
        rf"(?i:for) (?P<name>{_NAME}), the (?P<relation>{_RELATION}) {_IS} {_VALUE}",
        "For {name}, what {verb} the {relation}?",
    ),
    _pattern(
        "relation",
        rf"(?i:when it comes to) (?P<relation>{_NAME}), (?P<name>{_NAME}) has {_VALUE}",
        "When it comes to {relation}, what does {name} have?",
    ),
    _pattern(
        "relation",
        rf"(?i:{_NAME}) gives? the (?P<relation>{_RELATION}) of (?P<name>{_NAME}) as {_VALUE}",
        "What is the {relation} of {name}?",
        "Tell me the {relation} of {name}.",
    ),
    _pattern(
        "definition",
        rf"(?P<name>(?i:{_LONG_NAME})) (?P<verb>is|are) (?P<value>(?:an?|the|any|one of)\b .+)",
        "What {verb} {name}?",
        "Tell me what {name} {verb}.",
        answer="{sentence}.",
    ),
    _pattern(
        "definition",
        rf"(?P<name>(?i:{_LONG_NAME})) (?:is defined as|are defined as|refers to|refer to) (?P<value>.+)",
        "What is meant by {name}?",
        answer="{sentence}.",
    ),
    _pattern(
        "definition",
        rf"There is (?P<value>an? {_RELATION}) (?:called|named|known as) (?P<name>{_WORD}(?: {_WORD}){{0,3}})",
        "What is {name}?",
        "What kind of thing is {name}?",
        "Tell me what {name} is.",
    ),
    _pattern(
        "cause", rf"(?P<name>(?i:{_LONG_NAME})) {_IS} {_OFTEN}due to (?P<value>[^;:]+)", "What {verb} {name} due to?"
    ),
)
_CLOZE_WORDINGS = ("{begin} what?", "Say what belongs to it: {begin}")


def question_of(sentence: str, lower_case: Set[str], dice: Dice) -> MinedTask | None:
    """Return a question that a plain sentence answers; None if it cannot be understood by itself.

    Args:
        sentence: A sentence with its full stop.
        lower_case: Words that occur in lower case in the document; they lose their capital inside a question.
        dice: Random choice of the wording.
    """
    core = without_lead(sentence)[:-1]
    if not stands_by_itself(core):
        return None
    return _cause(core, lower_case, dice) or _known_form(core, lower_case, dice) or _cloze(core, dice)


def stands_by_itself(sentence: str) -> bool:
    """Return whether a sentence can be understood without the one before it."""
    return not _NOT_BY_ITSELF.match(sentence) or bool(_THERE_IS.match(sentence))


def without_lead(sentence: str) -> str:
    """Return the sentence without the words that connect it to the one before it."""
    return capitalised(_LEAD.sub("", sentence, count=1))


def capitalised(text: str) -> str:
    """Return the text with its first character in upper case."""
    return text[:1].upper() + text[1:]


def inside_sentence(phrase: str, lower_case: Set[str]) -> str:
    """Return a phrase as written inside a sentence; its first word loses its capital if `lower_case` contains it."""
    first = re.match(r"[\w’'-]*", phrase)
    is_common = first is not None and (first[0].lower() in lower_case or first[0] in ("A", "An", "The"))
    return phrase[:1].lower() + phrase[1:] if is_common else phrase


def _cause(core: str, lower_case: Set[str], dice: Dice) -> MinedTask | None:
    match = _CAUSE.match(core)
    if not match or _NO_EFFECT.match(match["effect"]):
        return None
    effect = inside_sentence(match["effect"], lower_case)
    question = f"Why is it that {effect}?" if effect[0].islower() and dice.chance(0.5) else f"{match['effect']}. Why?"
    return MinedTask("cause", question, capitalised(match["cause"]) + ".")


def _known_form(core: str, lower_case: Set[str], dice: Dice) -> MinedTask | None:
    for kind, expression, wordings, answer in _PATTERNS:
        if match := expression.match(core):
            groups = {name: inside_sentence(group, lower_case) for name, group in match.groupdict().items()}
            question = dice.pick(wordings).format(**groups)
            return MinedTask(kind, question, answer.format(value=match["value"], sentence=capitalised(core)))
    return None


def _cloze(core: str, dice: Dice) -> MinedTask | None:
    """Return a question for the last noun or noun phrase of a sentence."""
    words = core.split()
    for border in range(len(words) - 1, max(_MIN_CLOZE_WORDS, len(words) - _MAX_BLANK_WORDS) - 1, -1):
        if _asks_for_noun(words[border - 1], words[border]):
            begin, answer = " ".join(words[:border]), " ".join(words[border:])
            if _NO_ANSWER.match(answer):
                return None
            return MinedTask("cloze", dice.pick(_CLOZE_WORDINGS).format(begin=begin), answer)
    return None


def _asks_for_noun(word: str, following: str) -> bool:
    begins_phrase = _BEGINS_NOUN_PHRASE.fullmatch(following)
    return bool(_TAKES_NOUN.fullmatch(word) or (begins_phrase and _TAKES_NOUN_PHRASE.fullmatch(word)))
