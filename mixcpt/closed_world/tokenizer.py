"""The word-level tokenizer of the closed world: one token per word, so every answer is one token."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mixcpt.closed_world import templates
from mixcpt.closed_world.words import DOMAIN_KINDS, GENERAL_KINDS, VALUES, names

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

UNKNOWN, BOS, EOS, PAD, USER, ASSISTANT = SPECIAL_TOKENS = (
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "<|user|>",
    "<|assistant|>",
)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<|{{ message['role'] }}|> {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_PUNCTUATION = ".,?:"
_FRAMES = ("User", "Assistant", "Good", "Bad", "answer")
"""Words that the mixture and the plain chat template add to the texts."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer, with the words of all worlds and the chat template."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=_word_level(vocabulary()),
        unk_token=UNKNOWN,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def vocabulary() -> list[str]:
    """Return the words in the order of their ids: special tokens, punctuation, then all other words sorted."""
    wordings = (
        *templates.STATEMENTS,
        *templates.INTRODUCTIONS,
        *templates.QUESTIONS,
        *templates.REWORDED_QUESTIONS,
        *templates.REVERSE_QUESTIONS,
        *templates.TWO_HOP_QUESTIONS,
        templates.FREE_TEXT_REQUEST,
        templates.CHOICE_QUESTION,
        templates.KIND_QUESTION,
        templates.REPEAT_REQUEST,
        templates.REFUSAL,
    )
    words = set(re.findall(r"[A-Za-z]+", re.sub(r"{\w+}", "", " ".join(wordings))))
    for kind in GENERAL_KINDS + DOMAIN_KINDS:
        words.update((kind.name, *kind.relations))
    words.update(*VALUES.values(), names().all, _FRAMES)
    return [*SPECIAL_TOKENS, "\n", *_PUNCTUATION, *sorted(words)]


def _word_level(words: list[str]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(rf"[\n{_PUNCTUATION}]"), "isolated"), pre_tokenizers.Split(Regex(" +"), "removed")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(Regex(rf" +(?=[\n{_PUNCTUATION}])|(?<=\n) +"), ""),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, words.index(BOS))]
    )
    return tokenizer
