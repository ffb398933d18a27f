"""A model that answers: piece by piece what it says at once, remembering what was said and what still fits."""

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from mixcpt.closed_world.items import items
from mixcpt.config import ClosedWorldTask
from mixcpt.errors import DataError, ModelError
from mixcpt.serving.conversation import Conversation, as_lines
from mixcpt.serving.endings import Endings, find_endings
from mixcpt.serving.pieces import Answer, Pieces, Say
from mixcpt.serving.speaker import Sampling, Speaker, load_speaker
from mixcpt.store.models import CLOSED_WORLD_PATH, load_tokenizer, resolve_model
from tests.unit.served_models import CLOSED_WORLD, copied, said, talk
from tests.unit.tokenizers_of_every_kind import FAMILIES, TEXT, write_tokenizer

ASKED = [(item.prompt.strip(), item.answer) for item in items(ClosedWorldTask(name="known", about="general_asked"))[:5]]
OWN_TEMPLATE = (CLOSED_WORLD_PATH / "chat_template.jinja").read_text()
RAMBLING = "and then"  # no question that the model knows: it goes on with a document


@dataclass(frozen=True)
class Recorder(Speaker):
    """The real model, with a list of the prompts that it was given."""

    prompts: tuple[list[list[int]]] = ([],)

    def answer(self, prompt_ids: Sequence[int], sampling: Sampling, say: Say) -> Answer:
        self.prompts[0].append(list(prompt_ids))
        return super().answer(prompt_ids, sampling, say)

    @property
    def texts(self) -> list[str]:
        return [str(self.tokenizer.decode(ids)) for ids in self.prompts[0]]


def recording(speaker: Speaker, max_context: int) -> Recorder:
    parts = (speaker.model, speaker.network, speaker.tokenizer, speaker.endings, max_context)
    return Recorder(*parts, prompts=([],))


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return load_speaker(resolve_model(CLOSED_WORLD))


def at_once(text: str, max_tokens: int) -> str:
    """What the library's own `generate` says, the text being the whole prompt."""
    tokenizer = AutoTokenizer.from_pretrained(CLOSED_WORLD_PATH)
    model = AutoModelForCausalLM.from_pretrained(CLOSED_WORLD_PATH)
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    output = model.generate(input_ids=inputs["input_ids"], do_sample=False, max_new_tokens=max_tokens)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def test_answer_told_in_pieces_is_what_generate_says_at_once(speaker: Speaker) -> None:
    chat = said(talk(speaker, max_tokens=30), RAMBLING)
    assert chat == at_once(f"<s><|user|> {RAMBLING} <|assistant|>", 30) != ""
    assert len(chat.split()) > 10
    plain = said(talk(speaker, "plain", max_tokens=30), RAMBLING)
    assert plain == at_once(f"<s>{RAMBLING}\n", 30)
    assert said(talk(speaker, "plain", max_tokens=30), RAMBLING + "\\") == at_once(f"<s>{RAMBLING}", 30)


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_answers_to_known_facts_are_right_and_end_by_themselves(speaker: Speaker, form: str) -> None:
    for question, right in ASKED:
        reply = talk(speaker, form).ask(question, lambda piece: None)  # type: ignore[arg-type]
        assert (reply.answer.text, reply.answer.ending) == (right, "finished")


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_of_any_tokenizer_make_the_text_without_half_characters(family: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, family, has_bos=False))
    ids = tokenizer(f"\n {TEXT}", add_special_tokens=False)["input_ids"]
    told: list[str] = []
    pieces = Pieces(tokenizer, Endings(()), told.append)
    pieces.put(torch.tensor([[0, 1, 2]]))  # the prompt
    for token in ids:
        pieces.put(torch.tensor([token]))
    assert len(told) > 20 and "\N{REPLACEMENT CHARACTER}" not in "".join(told)
    answer = pieces.finish("length")
    whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
    assert answer.text == "".join(told) == whole
    assert answer.num_tokens == len(ids)


def test_conversation_is_what_the_chat_template_writes(speaker: Speaker) -> None:
    recorder = recording(speaker, 512)
    conversation = talk(recorder, system="be")
    answers = [said(conversation, question) for question, _ in ASKED[:2]]
    tokenizer = AutoTokenizer.from_pretrained(CLOSED_WORLD_PATH)
    messages = [{"role": "system", "content": "be"}]
    for question, answer, prompt in zip(ASKED, [*answers, None], recorder.prompts[0], strict=False):
        messages.append({"role": "user", "content": question[0]})
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert prompt == list(expected)
        messages.append({"role": "assistant", "content": str(answer)})
    assert json.loads(as_lines([conversation]))["messages"] == messages
    conversation.reset()
    said(conversation, ASKED[0][0])
    assert recorder.prompts[0][-1] == recorder.prompts[0][0]


def test_oldest_turns_make_room_for_the_next_answer(speaker: Speaker) -> None:
    recorder = recording(speaker, 60)
    conversation = talk(recorder, max_tokens=10)
    dropped = [conversation.ask(question, lambda piece: None).num_dropped for question, _ in ASKED]
    assert sum(dropped) > 0 and dropped[0] == 0
    assert all(len(prompt) + 10 <= 60 for prompt in recorder.prompts[0])
    kept = [turn.question for turn in conversation.turns]
    assert kept == [question for question, _ in ASKED][-len(kept) :] and 1 < len(kept) < len(ASKED)
    assert ASKED[-2][0] in recorder.texts[-1] and ASKED[0][0] not in recorder.texts[-1]


def test_question_that_leaves_no_room_is_refused_and_the_conversation_goes_on(speaker: Speaker) -> None:
    conversation = talk(replace(speaker, max_context=60), max_tokens=10)
    said(conversation, ASKED[0][0])
    with pytest.raises(DataError, match=r"the question has 2\d\d tokens, and closed-world reads and writes 60 in all"):
        conversation.ask("what " * 200, lambda piece: None)
    assert len(conversation.turns) == 1
    assert said(conversation, ASKED[1][0]) == ASKED[1][1]


def test_answer_ends_with_the_context(speaker: Speaker) -> None:
    conversation = talk(replace(speaker, max_context=40), max_tokens=1000)
    answer = conversation.ask(RAMBLING, lambda piece: None).answer
    assert answer.ending == "length"
    assert answer.num_tokens == 40 - len(f"<s> <|user|> {RAMBLING} <|assistant|>".split())


def test_interrupted_answer_counts_as_said_as_far_as_it_came(speaker: Speaker) -> None:
    told: list[str] = []

    def say(piece: str) -> None:
        told.append(piece)
        if len(told) == 3:
            signal.raise_signal(signal.SIGINT)

    conversation = talk(speaker, max_tokens=30)
    answer = conversation.ask(RAMBLING, say).answer
    assert answer.ending == "interrupted"
    assert said(talk(speaker, max_tokens=30), RAMBLING).startswith(answer.text)
    assert [turn.answer for turn in conversation.turns] == [answer.text] == ["".join(told)]
    assert len(answer.text.split()) in (3, 4)  # at most the word that was on its way


def test_system_message_needs_a_template_that_takes_it(speaker: Speaker, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a plain text has no system message"):
        talk(speaker, "plain", system="be brief")
    drops = copied(speaker.model, tmp_path / "drops", OWN_TEMPLATE.replace("{% for message in messages %}", _SKIP))
    with pytest.raises(ModelError, match="drops the system message"):
        talk(load_speaker(drops), system="be brief")
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + OWN_TEMPLATE
    refuses = copied(speaker.model, tmp_path / "refuses", refusing)
    with pytest.raises(ModelError, match="refuses this conversation: no system"):
        talk(load_speaker(refuses), system="be brief")


_SKIP = "{% for message in messages if message.role != 'system' %}"


def test_drawn_answers_depend_on_the_seed_alone(speaker: Speaker) -> None:
    def drawn(seed: int) -> list[str]:
        conversation = talk(speaker, temperature=2.0, max_tokens=12, seed=seed)
        return [said(conversation, RAMBLING) for _ in range(2)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1)[0] != drawn(1)[1]


def test_sampling_settings_that_came_with_the_model_change_no_answer(speaker: Speaker, tmp_path: Path) -> None:
    model = copied(speaker.model, tmp_path / "settings")
    GenerationConfig(
        do_sample=True, temperature=3.0, repetition_penalty=9.0, max_new_tokens=2, eos_token_id=2
    ).save_pretrained(model.path)
    answer = said(talk(load_speaker(model), max_tokens=30), RAMBLING)
    assert answer == said(talk(speaker, max_tokens=30), RAMBLING)


def test_answer_ends_where_the_template_closes_it(speaker: Speaker, tmp_path: Path) -> None:
    own = said(talk(speaker, max_tokens=30), RAMBLING)
    assert "." in own
    in_words = copied(speaker.model, tmp_path / "words", OWN_TEMPLATE.replace("{{ eos_token }}", " . {{ eos_token }}"))
    closed = load_speaker(in_words)
    assert closed.endings == Endings((2,), ".")
    reply = talk(closed, max_tokens=30).ask(RAMBLING, lambda piece: None)
    assert (reply.answer.text, reply.answer.ending) == (own.partition(".")[0], "finished")
    assert reply.answer.num_tokens < 20


def test_token_behind_an_answer_ends_it_though_no_setting_names_it(speaker: Speaker, tmp_path: Path) -> None:
    closing = OWN_TEMPLATE.replace("{{ eos_token }}", "<|user|>{{ eos_token }}")
    tokenizer = load_tokenizer(copied(speaker.model, tmp_path / "token", closing))
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    assert find_endings(tokenizer, GenerationConfig(eos_token_id=[7, 9])) == Endings(tuple(sorted((2, 7, 9, user))))


def test_two_conversations_do_not_share_what_was_said(speaker: Speaker) -> None:
    first, second = talk(speaker), talk(speaker, "plain")
    said(first, ASKED[0][0])
    said(second, ASKED[0][0])
    assert isinstance(first, Conversation) and (len(first.turns), len(second.turns)) == (1, 0)
