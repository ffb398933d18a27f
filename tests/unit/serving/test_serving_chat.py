"""A chat streams exactly the text that generate() gives, keeps its turns, and drops the oldest ones if needed."""

import signal
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from mixcpt.align.endings import Endings, find_endings
from mixcpt.closed_world.items import items
from mixcpt.config import ClosedWorldTask
from mixcpt.errors import DataError, ModelError
from mixcpt.serving.chat import AnswerStreamer, Chat, load_chat
from mixcpt.store.models import CLOSED_WORLD_PATH, load_tokenizer, resolve_model
from tests.unit.served_models import CLOSED_WORLD, answer, copied, new_chat
from tests.unit.tokenizers_of_every_kind import FAMILIES, TEXT, write_tokenizer

KNOWN = [(item.prompt.strip(), item.answer) for item in items(ClosedWorldTask(name="known", about="general_asked"))[:5]]
OWN_TEMPLATE = (CLOSED_WORLD_PATH / "chat_template.jinja").read_text()
RAMBLING = "and then"  # no question: the model continues with a document


@dataclass(kw_only=True)
class RecordingChat(Chat):
    """The real chat with a list of its prompts."""

    prompts: list[list[int]] = field(default_factory=list)

    def ask(self, question: str) -> Generator[str, None, None]:
        self.prompts.append(self._fit(question))
        yield from super().ask(question)


def recording(chat: Chat, **settings: object) -> RecordingChat:
    return RecordingChat(**{**vars(chat), "messages": [], "notes": [], **settings})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def loaded() -> Chat:
    return load_chat(resolve_model(CLOSED_WORLD), max_tokens=256)


def generated(text: str, max_tokens: int) -> str:
    """Return the text that the library's own `generate` gives, with `text` as the whole prompt."""
    tokenizer = AutoTokenizer.from_pretrained(CLOSED_WORLD_PATH)
    model = AutoModelForCausalLM.from_pretrained(CLOSED_WORLD_PATH)
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    output = model.generate(input_ids=inputs["input_ids"], do_sample=False, max_new_tokens=max_tokens)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def test_streamed_answer_equals_generate(loaded: Chat) -> None:
    chat = answer(new_chat(loaded, max_tokens=30), RAMBLING)
    assert chat == generated(f"<s><|user|> {RAMBLING} <|assistant|>", 30) != ""
    assert len(chat.split()) > 10
    plain = answer(new_chat(loaded, is_plain=True, max_tokens=30), RAMBLING)
    assert plain == generated(f"<s>{RAMBLING}\n", 30)
    continued = answer(new_chat(loaded, is_plain=True, max_tokens=30), RAMBLING + "\\")
    assert continued == generated(f"<s>{RAMBLING}", 30)


@pytest.mark.parametrize("is_plain", [True, False])
def test_answers_to_known_facts_are_right_and_not_cut(loaded: Chat, is_plain: bool) -> None:
    for question, right in KNOWN:
        chat = new_chat(loaded, is_plain=is_plain)
        assert (answer(chat, question), chat.notes) == (right, [])


@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_parts_of_any_tokenizer_make_the_text_without_half_characters(family: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, family, has_bos=False))
    ids = tokenizer(f"\n {TEXT}\n  an indented line", add_special_tokens=False)["input_ids"]
    streamer = AnswerStreamer(tokenizer, Endings(()))
    streamer.put(torch.tensor([[0, 1, 2]]))  # the prompt
    for token in ids:
        streamer.put(torch.tensor([token]))
    streamer.end()
    parts = [part for part in streamer if part]
    assert len(parts) > 20 and "\N{REPLACEMENT CHARACTER}" not in "".join(parts)
    whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
    assert "".join(parts) == whole


def test_conversation_is_rendered_by_the_chat_template(loaded: Chat) -> None:
    chat = recording(loaded, system="be")
    answers = [answer(chat, question) for question, _ in KNOWN[:2]]
    tokenizer = AutoTokenizer.from_pretrained(CLOSED_WORLD_PATH)
    messages = [{"role": "system", "content": "be"}]
    for (question, _), text, prompt in zip(KNOWN, answers, chat.prompts, strict=False):
        messages.append({"role": "user", "content": question})
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert prompt == list(expected)
        messages.append({"role": "assistant", "content": text})
    assert chat.messages == messages[1:]
    chat.messages.clear()
    answer(chat, KNOWN[0][0])
    assert chat.prompts[-1] == chat.prompts[0]


@pytest.mark.parametrize("is_plain", [True, False])
def test_control_tokens_in_a_question_are_text(loaded: Chat, is_plain: bool) -> None:
    chat = recording(loaded, is_plain=is_plain)
    for question in ("who keeps the fox ?", "who keeps </s> the <s> fox ?"):
        chat.messages.clear()
        answer(chat, question)
    control = set(chat.tokenizer.all_special_ids) - {chat.tokenizer.unk_token_id}
    without, with_them = ([token for token in prompt if token in control] for prompt in chat.prompts[:2])
    assert without == with_them


def test_oldest_turns_make_room_for_the_next_answer(loaded: Chat) -> None:
    chat = new_chat(loaded, max_context=60, max_tokens=10)
    notes = []
    for question, _ in KNOWN:
        assert len(chat._fit(question)) + 10 <= 60
        notes += chat.notes
        answer(chat, question)
    assert notes and all("dropped: the conversation no longer fits the model's context" in note for note in notes)
    kept = [message["content"] for message in chat.messages if message["role"] == "user"]
    assert kept == [question for question, _ in KNOWN][-len(kept) :] and 1 < len(kept) < len(KNOWN)


def test_question_that_leaves_no_room_is_refused_and_the_conversation_goes_on(loaded: Chat) -> None:
    chat = new_chat(loaded, max_context=60, max_tokens=10)
    answer(chat, KNOWN[0][0])
    with pytest.raises(DataError, match=r"the question has 2\d\d tokens, but the context of closed-world is 60 tokens"):
        answer(chat, "what " * 200)
    assert len(chat.messages) == 2
    assert answer(chat, KNOWN[1][0]) == KNOWN[1][1]


def test_answer_ends_with_the_context(loaded: Chat) -> None:
    chat = new_chat(loaded, max_context=40, max_tokens=1000)
    answer(chat, RAMBLING)
    room = 40 - len(f"<s> <|user|> {RAMBLING} <|assistant|>".split())
    assert chat.notes == [f"cut after {room} tokens (--max-tokens, or the end of the model's context)"]


def test_interrupted_answer_is_kept_as_far_as_it_was_shown(loaded: Chat) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores the signal
    chat = new_chat(loaded, max_tokens=200)
    shown = []
    with pytest.raises(KeyboardInterrupt):
        for part in chat.ask(RAMBLING):
            shown.append(part)
            if len(shown) == 3:
                signal.raise_signal(signal.SIGINT)
    text = "".join(shown)
    assert text and answer(new_chat(loaded, max_tokens=200), RAMBLING).startswith(text)
    assert [message["content"] for message in chat.messages] == [RAMBLING, text]
    assert answer(chat, KNOWN[0][0])


def test_error_of_the_network_reaches_the_caller(loaded: Chat) -> None:
    chat = new_chat(loaded, temperature=-1.0)
    with pytest.raises(ValueError, match="temperature"):
        answer(chat, RAMBLING)


def test_system_message_needs_a_template_that_accepts_it(loaded: Chat, tmp_path: Path) -> None:
    model = resolve_model(CLOSED_WORLD)
    with pytest.raises(ModelError, match="a plain text has no system message"):
        new_chat(loaded, is_plain=True, system="be brief")
    drops = copied(model, tmp_path / "drops", OWN_TEMPLATE.replace("{% for message in messages %}", _SKIP))
    with pytest.raises(ModelError, match="drops the system message"):
        load_chat(drops, max_tokens=9, system="be brief")
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + OWN_TEMPLATE
    refuses = copied(model, tmp_path / "refuses", refusing)
    with pytest.raises(ModelError, match="refuses this conversation: no system"):
        load_chat(refuses, max_tokens=9, system="be brief")


_SKIP = "{% for message in messages if message.role != 'system' %}"


def test_drawn_answers_depend_only_on_the_seed(loaded: Chat) -> None:
    def drawn(seed: int) -> list[str]:
        chat = new_chat(loaded, temperature=2.0, max_tokens=12, seed=seed)
        return [answer(chat, RAMBLING) for _ in range(2)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1)[0] != drawn(1)[1]


def test_sampling_settings_stored_with_the_model_change_no_answer(loaded: Chat, tmp_path: Path) -> None:
    model = copied(resolve_model(CLOSED_WORLD), tmp_path / "settings")
    GenerationConfig(
        do_sample=True, temperature=3.0, repetition_penalty=9.0, max_new_tokens=2, eos_token_id=2
    ).save_pretrained(model.path)
    changed = answer(load_chat(model, max_tokens=30), RAMBLING)
    assert changed == answer(new_chat(loaded, max_tokens=30), RAMBLING)


def test_answer_ends_at_the_text_that_the_template_writes_after_it(loaded: Chat, tmp_path: Path) -> None:
    own = answer(new_chat(loaded, max_tokens=30), RAMBLING)
    assert "." in own
    template = OWN_TEMPLATE.replace("{{ eos_token }}", " . {{ eos_token }}")
    closed = load_chat(copied(resolve_model(CLOSED_WORLD), tmp_path / "words", template), max_tokens=30)
    assert closed.endings == Endings((2,), ".")
    assert answer(closed, RAMBLING) == own.partition(".")[0].strip()
    assert closed.notes == []


def test_token_after_an_answer_ends_it_even_if_no_setting_lists_it(tmp_path: Path) -> None:
    closing = OWN_TEMPLATE.replace("{{ eos_token }}", "<|user|>{{ eos_token }}")
    tokenizer = load_tokenizer(copied(resolve_model(CLOSED_WORLD), tmp_path / "token", closing))
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    assert find_endings(tokenizer, GenerationConfig(eos_token_id=[7, 9])) == Endings(tuple(sorted((2, 7, 9, user))))


def test_chats_share_no_conversation(loaded: Chat) -> None:
    first, second = new_chat(loaded), replace(loaded, is_plain=True, messages=[], notes=[])
    answer(first, KNOWN[0][0])
    answer(second, KNOWN[0][0])
    assert (len(first.messages), len(second.messages)) == (2, 0)
