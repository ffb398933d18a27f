"""The word-level tokenizer: no unknown word, lossless decoding, the chat template of the training text."""

import pytest
from transformers import PreTrainedTokenizerFast

from mixcpt.closed_world import items, records
from mixcpt.closed_world.base_data import BaseDataSize, base_documents
from mixcpt.closed_world.tokenizer import SPECIAL_TOKENS, build_tokenizer, vocabulary
from mixcpt.closed_world.words import NUM_DOMAIN_BLOCKS
from mixcpt.config import ClosedWorldSource, ClosedWorldTask


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def all_texts() -> list[str]:
    """Every text of world 0 in two wordings, and the domains of its neighbours, which have other names."""
    texts = []
    for seed, pool, fields in (
        (0, "general", ("text",)),
        (0, "instructions", ("prompt", "response")),
        (0, "preferences", ("prompt", "chosen", "rejected")),
        *((seed, "domain", ("text",)) for seed in range(NUM_DOMAIN_BLOCKS)),
    ):
        source = ClosedWorldSource(name="world", pool=pool, seed=seed, wordings=2)  # type: ignore[arg-type]
        texts += ["\n".join(record[field] for field in fields) for record in records(source)]
    return texts + [item.prompt for item in items(ClosedWorldTask(form="memory"))]


def test_tokenizer_round_trip_keeps_every_text_without_unknown_words(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = all_texts()
    encoded = tokenizer(texts)["input_ids"]
    assert not any(tokenizer.unk_token_id in ids for ids in encoded)
    assert tokenizer.batch_decode(encoded, skip_special_tokens=True) == texts


def test_tokenizer_answers_are_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    for item in items(ClosedWorldTask(about="general_unasked")):
        assert len(tokenizer(item.answer, add_special_tokens=False)["input_ids"]) == 1


def test_tokenizer_newline_is_a_token_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("What kind?\nheron") == ["What", "kind", "?", "\n", "heron"]


def test_tokenizer_chat_form_equals_the_dialogues_of_the_base(tokenizer: PreTrainedTokenizerFast) -> None:
    dialogues = [
        record["text"]
        for record in base_documents(0, BaseDataSize(wordings=1, num_strangers=0, num_dialogues=200))
        if record["id"].startswith("dialogue/")
    ]
    for dialogue in dialogues:
        messages = []
        for turn in dialogue.split("</s>"):
            question, answer = turn.removeprefix("<|user|> ").split(" <|assistant|> ")
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert rendered == [*tokenizer(dialogue)["input_ids"], tokenizer.eos_token_id]


def test_tokenizer_chat_prompt_is_the_beginning_of_the_dialogue(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": "Say the word fox."}, {"role": "assistant", "content": "fox"}]
    whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=True, return_dict=False, add_generation_prompt=True)
    assert whole == [*prompt, *tokenizer("fox", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def test_vocabulary_has_no_word_twice() -> None:
    words = vocabulary()
    assert len(set(words)) == len(words) < 2000
    assert tuple(words[: len(SPECIAL_TOKENS)]) == SPECIAL_TOKENS
