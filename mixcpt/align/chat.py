"""The two forms of a sample: rendered with the chat template, and as plain text as in pre-training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixcpt.errors import ModelError
from mixcpt.store.control_tokens import acts_unbidden, dialogue, ends_answer, guarded, token_ids
from mixcpt.store.fingerprint import fingerprint
from mixcpt.store.models import ModelRef, load_tokenizer, read_chat_template, require_chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_SEPARATOR = "\n"
"""Text between question and answer in the plain form; the default separator of the mixture."""

_PROBE = ("ping", "pong")


@dataclass(frozen=True)
class Encoded:
    """Token ids of one sample, divided into prompt and answer."""

    prompt_ids: list[int]
    response_ids: list[int]
    """Answer with its end: end-of-turn markers in the chat form, the end-of-text token in the plain form."""
    has_control: bool = False
    """Whether a control token in the words of the sample cannot be encoded as text, so that it would act."""

    @property
    def input_ids(self) -> list[int]:
        return self.prompt_ids + self.response_ids

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def load_chat_tokenizer(model: ModelRef, chat_template: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model and check its chat template; `chat_template` as in `BaseModelConfig`.

    Raises:
        ModelError: If there is no chat template, it cannot be rendered or drops text, or there is no EOS token.
    """
    from jinja2 import TemplateError

    require_chat_template(model, chat_template)
    tokenizer = load_tokenizer(model, chat_template)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {model.path} has no end-of-text token, so generation could not stop",
            "set eos_token in its tokenizer_config.json",
        )
    prompt, response = _PROBE
    try:
        text = tokenizer.apply_chat_template(dialogue(prompt, response), tokenize=False)
        tokenizer.apply_chat_template(dialogue(prompt), tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise ModelError(
            f"the chat template of {model.path} cannot be rendered: {error}", "check base.chat_template"
        ) from error
    if prompt not in text or response not in text:
        raise ModelError(
            f"the chat template of {model.path} drops the user's or the assistant's text; it renders {text!r}",
            "check base.chat_template",
        )
    return tokenizer


def template_digest(model: ModelRef, chat_template: str) -> str:
    """Return the SHA-256 of the text of a model's chat template; `chat_template` as in `BaseModelConfig`.

    It is read from the model's files, and through transformers only if they hold several templates.

    Raises:
        ModelError: If there is no chat template.
    """
    if chat_template:
        return fingerprint(read_chat_template(chat_template))
    file = model.directory / "chat_template.jinja"
    settings = model.directory / "tokenizer_config.json"
    template: object = None
    if file.is_file():
        template = file.read_text(encoding="utf-8")
    elif settings.is_file():
        template = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
    has_more = any((model.directory / name).exists() for name in ("additional_chat_templates", "tekken.json"))
    if has_more or not isinstance(template, str | None):
        template = load_tokenizer(model).chat_template
    if not template:
        require_chat_template(model, chat_template)
    return fingerprint(template)


def context_tokens(model: ModelRef, max_tokens: int) -> int:
    """Return `max_tokens`, or the context length of the model if that is less."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model.path, trust_remote_code=False).get_text_config()
    return min(max_tokens, getattr(config, "max_position_embeddings", None) or max_tokens)


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = False
) -> str:
    """Return a conversation with the chat template, as a guarded text for `token_ids`.

    Control tokens of the template act. Those in the contents of the messages are text.
    """
    turns = [{**message, "content": guarded(tokenizer, message["content"])} for message in messages]
    rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=add_generation_prompt, tokenize=False)
    return str(rendered)


def encode_chat(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> Encoded:
    """Return a sample in the chat form; its prompt is exactly the prompt of a model that generates the answer.

    If the template ends no answer, the end-of-text token does.
    """
    before = render_chat(tokenizer, dialogue(prompt), add_generation_prompt=True)
    whole = render_chat(tokenizer, dialogue(prompt, response))
    end = [] if ends_answer(tokenizer) or tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return _cut(tokenizer, before, whole, end=end)


def encode_plain(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> Encoded:
    """Return a sample in the form of pre-training: beginning of text, question, separator, answer, end of text."""
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    question = prompt + PLAIN_SEPARATOR
    whole = guarded(tokenizer, question + response)
    return _cut(tokenizer, guarded(tokenizer, question), whole, start=start, end=end)


def _cut(
    tokenizer: PreTrainedTokenizerBase, prompt: str, whole: str, *, start: Sequence[int] = (), end: Sequence[int] = ()
) -> Encoded:
    """Return the tokens of the guarded text `whole`, divided after `prompt`, between `start` and `end`.

    If the ids of the prompt are not a prefix of the ids of the whole, because a token spans the boundary or the
    template renders the prompt differently, the rest is tokenised separately: training needs the same prompt as
    generation.
    """
    prompt_ids, whole_ids = token_ids(tokenizer, prompt), token_ids(tokenizer, whole)
    has_control = any(acts_unbidden(tokenizer, text, ids) for text, ids in ((prompt, prompt_ids), (whole, whole_ids)))
    if whole_ids[: len(prompt_ids)] == prompt_ids:
        response_ids = whole_ids[len(prompt_ids) :]
    else:
        characters = enumerate(zip(prompt, whole, strict=False))
        num_shared = next((index for index, (ours, theirs) in characters if ours != theirs), len(prompt))
        response_ids = token_ids(tokenizer, whole[num_shared:])
    return Encoded([*start, *prompt_ids], [*response_ids, *end], has_control)
