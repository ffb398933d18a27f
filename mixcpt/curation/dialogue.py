r"""Split `\n\nHuman: ... \n\nAssistant: ...` dialogues, the form of the HH-RLHF data, into prompt and last answer."""

_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class NotADialogue(ValueError):
    """Raised for a text that does not consist of a prompt and an answer; the message is the reason."""


def split_dialogue(text: str) -> tuple[str, str]:
    """Return prompt and last answer.

    A single question becomes plain text. Prompts of several turns keep their role names, because the speakers cannot
    be distinguished without them.

    Raises:
        NotADialogue: If there is no answer, no question, or the dialogue ends with the human's turn.
    """
    before, marker, answer = ("\n\n" + text.lstrip()).rpartition(_ASSISTANT)
    if not marker:
        raise NotADialogue("has no 'Assistant:' turn")
    if _HUMAN in answer:
        raise NotADialogue("ends with a 'Human:' turn, not with an answer")
    if not answer.strip():
        raise NotADialogue("has an empty last answer")
    if not before.startswith(_HUMAN):
        raise NotADialogue("does not begin with a 'Human:' turn")
    if not before.removeprefix(_HUMAN).strip():
        raise NotADialogue("has an empty question")
    several_turns = _ASSISTANT in before or before.count(_HUMAN) > 1
    return (before if several_turns else before.removeprefix(_HUMAN)).strip(), answer.strip()
