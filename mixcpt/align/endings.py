"""The endings of an answer: tokens and text by which a model says that it is done."""

from dataclasses import dataclass

from transformers import GenerationConfig, PreTrainedTokenizerBase

_ANSWER = "the answer to it"
_DIALOGUE = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": _ANSWER}]


@dataclass(frozen=True)
class Endings:
    """Tokens and text that end an answer."""

    token_ids: tuple[int, ...]
    """End tokens of the model, of the tokenizer, and of the chat template."""
    text: str = ""
    """Ordinary text that the chat template writes after an answer; empty if it writes a token or nothing."""


def find_endings(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None) -> Endings:
    """Return the endings of a model with these generation settings.

    A base model that learned a chat template stops at a token (`<|im_end|>`) that its own settings often do not list.
    """
    declared = generation.eos_token_id if generation else None
    ids = {tokenizer.eos_token_id, *(declared if isinstance(declared, list) else [declared])} - {None}
    closing = ""
    if tokenizer.chat_template:
        dialogue = str(tokenizer.apply_chat_template(_DIALOGUE, tokenize=False))
        closing = dialogue.rpartition(_ANSWER)[2].lstrip()
    added = {token.content for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    tokens = sorted(filter(str.strip, added), key=len, reverse=True)  # longest first: one token may begin another
    if token := next((token for token in tokens if closing.startswith(token)), ""):
        ids.add(tokenizer.convert_tokens_to_ids(token))
        closing = ""
    for token in tokens:
        closing = closing.partition(token)[0]
    return Endings(tuple(sorted(ids)), closing.strip())
