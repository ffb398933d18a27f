"""Chat with a model: streamed answers and their endings, and the latest turns that fit the model's context."""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TextIteratorStreamer

from mixcpt.align.chat import PLAIN_SEPARATOR, render_chat
from mixcpt.align.endings import Endings, find_endings
from mixcpt.errors import DataError, ModelError
from mixcpt.store.control_tokens import plain_ids, token_ids
from mixcpt.store.models import ModelRef, load_model, load_tokenizer

CONTINUE = "\\"
"""Last character of a plain question that the model continues on the same line."""
_MIN_ANSWER_TOKENS = 16
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # decoded from the first bytes of a longer character


@dataclass(kw_only=True)
class Chat:
    """A loaded model and its conversation; in plain form every question stands by itself."""

    name: str
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    endings: Endings
    max_context: int
    """Maximum tokens of a prompt and its answer together; 0 if the model sets no limit."""
    max_tokens: int
    temperature: float = 0.0
    """Sampling temperature; 0 always takes the most likely token."""
    seed: int = 0
    """Random seed of the next answer; every answer increases it by one."""
    is_plain: bool = False
    system: str = ""
    messages: list[dict[str, str]] = field(default_factory=list)
    """Questions and answers in turn, oldest first."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the user about the last answer."""

    def __post_init__(self) -> None:
        if self.system and self.is_plain:
            raise ModelError(f"{self.name}: a plain text has no system message", "leave out --system or --plain")
        if self.system and self.system.strip() not in self._render([], "a question"):
            raise ModelError(f"the chat template of {self.name} drops the system message", "leave out --system")

    def ask(self, question: str) -> Generator[str, None, None]:
        """Yield the parts of an answer as the model writes them, and add the question and answer to the conversation.

        An interrupted answer is kept as far as it was yielded.

        Raises:
            DataError: If the question leaves no room for an answer, even without earlier turns.
        """
        self.notes = []
        prompt_ids = self._fit(question)
        streamer = AnswerStreamer(self.tokenizer, self.endings)
        answer = ""
        with ThreadPoolExecutor(max_workers=1) as pool:  # a Ctrl-C interrupts this loop, not a step of the network
            generation = pool.submit(self._generate, prompt_ids, streamer)
            try:
                for part in streamer:
                    answer += part
                    yield part
            finally:
                streamer.is_stopped = True
                self.seed += 1
                if answer and not self.is_plain:
                    self.messages += _turn(question, answer)
        generation.result()
        if not streamer.is_finished:
            num_tokens = len(streamer.token_cache)
            self.notes.append(f"cut after {num_tokens} tokens (--max-tokens, or the end of the model's context)")

    def _generate(self, prompt_ids: list[int], streamer: "AnswerStreamer") -> None:
        room = self.max_context - len(prompt_ids) if self.max_context else self.max_tokens
        sampling = {"temperature": self.temperature, "top_k": 0, "top_p": 1.0} if self.temperature else {}
        config = GenerationConfig(
            max_new_tokens=min(self.max_tokens, room),
            do_sample=bool(self.temperature),
            eos_token_id=list(self.endings.token_ids),
            pad_token_id=self.tokenizer.pad_token_id,
            **sampling,
        )
        torch.manual_seed(self.seed)
        inputs = torch.tensor([prompt_ids], device=self.network.device)
        criteria = [lambda ids, *_, **__: torch.full((len(ids),), streamer.should_stop, device=ids.device)]
        try:
            self.network.generate(  # type: ignore[operator]
                inputs,
                attention_mask=torch.ones_like(inputs),
                generation_config=config,
                streamer=streamer,
                stopping_criteria=criteria,
            )
        finally:
            streamer.end()  # after an error too: otherwise the reader would wait forever

    def _fit(self, question: str) -> list[int]:
        """Return the prompt, after dropping the oldest turns until `max_tokens`, or half the context, are left."""
        room = min(self.max_tokens, self.max_context // 2)
        for num_dropped in range(len(self.messages) // 2 + 1):
            prompt_ids = self._prompt_ids(self.messages[2 * num_dropped :], question)
            if len(prompt_ids) + room <= self.max_context or not self.max_context:
                break
        else:
            if len(prompt_ids) + min(room, _MIN_ANSWER_TOKENS) > self.max_context:
                problem = f"the question has {len(prompt_ids):,} tokens, but the context of {self.name} is"
                raise DataError(f"{problem} {self.max_context:,} tokens", "ask a shorter question")
        if num_dropped:
            del self.messages[: 2 * num_dropped]
            turns = "turn was" if num_dropped == 1 else f"{num_dropped} turns were"
            self.notes.append(f"the oldest {turns} dropped: the conversation no longer fits the model's context")
        return prompt_ids

    def _prompt_ids(self, messages: Sequence[dict[str, str]], question: str) -> list[int]:
        if not self.is_plain:
            ids = token_ids(self.tokenizer, self._render(messages, question))
        else:
            text = question.removesuffix(CONTINUE) if question.endswith(CONTINUE) else question + PLAIN_SEPARATOR
            start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
            ids = [*start, *plain_ids(self.tokenizer, text)]
        if not ids:
            raise DataError(f"the question {question!r} has no tokens", "write at least one word")
        return ids

    def _render(self, messages: Sequence[dict[str, str]], question: str) -> str:
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *messages, {"role": "user", "content": question}]
        try:
            return render_chat(self.tokenizer, messages, add_generation_prompt=True)
        except TemplateError as error:
            raise ModelError(f"the chat template of {self.name} refuses this conversation: {error}") from error


def load_chat(
    model: ModelRef, *, max_tokens: int, temperature: float = 0.0, seed: int = 0, plain: bool = False, system: str = ""
) -> Chat:
    """Load a model for a chat: in bfloat16 on the GPU if there is one, else in float32 on the CPU.

    A model without a chat template is loaded for plain questions, without the system message.
    """
    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    network, tokenizer = load_model(model, dtype=dtype), load_tokenizer(model)
    endings = find_endings(tokenizer, network.generation_config)
    network.generation_config = GenerationConfig()  # generate() would mix the model's own sampling settings in
    return Chat(
        name=model.name,
        network=network.to(torch.device(device)),  # type: ignore[arg-type]
        tokenizer=tokenizer,
        endings=endings,
        max_context=getattr(network.config.get_text_config(), "max_position_embeddings", None) or 0,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        is_plain=plain or not tokenizer.chat_template,
        system=system if plain or tokenizer.chat_template else "",
    )


def _turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


class AnswerStreamer(TextIteratorStreamer):  # type: ignore[misc]
    """Stream an answer up to its ending, without white space around it.

    The base class decodes line by line, which drops a space at the start of a line with SentencePiece tokenizers;
    this class decodes the whole answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, endings: Endings) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self.endings = endings
        self.is_finished = self.is_stopped = False

    @property
    def should_stop(self) -> bool:
        return self.is_finished or self.is_stopped

    def put(self, value: Tensor) -> None:
        if self.next_tokens_are_prompt:
            self.next_tokens_are_prompt = False
            return
        self.token_cache += value.flatten().tolist()
        text, stop = self._text().rstrip(_INCOMPLETE), self.endings.text
        pending = next((n for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n])), 0)
        self._show(text[: len(text) - pending])

    def end(self) -> None:
        self._show(self._text())
        self.text_queue.put(self.stop_signal)

    def _text(self) -> str:
        ids = [token for token in self.token_cache if token not in self.endings.token_ids]
        text = str(self.tokenizer.decode(ids, **self.decode_kwargs))
        answer, closing, _ = text.partition(self.endings.text) if self.endings.text else (text, "", "")
        self.is_finished = bool(closing) or len(ids) < len(self.token_cache)
        return answer

    def _show(self, text: str) -> None:
        text = text.strip()
        self.text_queue.put(text[self.print_len :])
        self.print_len = max(self.print_len, len(text))
