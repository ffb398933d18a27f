"""Generate texts with a local model, in batches.

Every text has its own random numbers, seeded by its request: the text does not depend on the texts that share its
batch, nor on the order of the requests. A crash therefore changes no text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from mixcpt.align.chat import PLAIN_SEPARATOR, render_chat
from mixcpt.align.endings import find_endings
from mixcpt.errors import DataError
from mixcpt.mixture.tokens import max_input_tokens
from mixcpt.rewrite.memory import Generated
from mixcpt.rewrite.requests import Request
from mixcpt.store.control_tokens import plain_ids, token_ids
from mixcpt.store.models import ModelRef, load_model, load_tokenizer

_ROOM = 16
"""Tokens that a text may have beyond its maximum length, so that short passages get whole sentences."""
_log = logging.getLogger("mixcpt.rewrite")


class LocalTexts:
    """A model that writes texts."""

    def __init__(self, model: ModelRef, *, temperature: float, top_p: float, batch_texts: int) -> None:
        device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
        self.name = model.name
        self.tokenizer = load_tokenizer(model)
        network = load_model(model, dtype=dtype)
        self._endings = find_endings(self.tokenizer, network.generation_config)
        network.generation_config = GenerationConfig()
        network.config.use_cache = True
        self.network = network.to(torch.device(device))  # type: ignore[arg-type]
        self._context = max_input_tokens(model)
        self._temperature, self._top_p, self._batch_texts = temperature, top_p, batch_texts

    def answers(self, requests: Mapping[str, Request]) -> Iterator[list[Generated]]:
        """Yield the texts of all requests, by key, one batch at a time; the shortest prompts come first.

        Raises:
            DataError: If a passage does not fit into the context of the model.
        """
        prompts = {key: self.prompt_ids(request) for key, request in requests.items()}
        keys = sorted(requests, key=lambda key: (len(prompts[key]), key))
        for first in range(0, len(keys), self._batch_texts):
            batch = keys[first : first + self._batch_texts]
            yield self._generate(batch, [prompts[key] for key in batch], [requests[key] for key in batch])

    def prompt_ids(self, request: Request) -> list[int]:
        """Return the tokens of a prompt: a turn of a chat, or plain text for a model or form without chat."""
        form = request.form
        if form.as_chat and self.tokenizer.chat_template:
            system = [{"role": "system", "content": form.system}] if form.system else []
            messages = [*system, {"role": "user", "content": request.prompt}]
            return token_ids(self.tokenizer, render_chat(self.tokenizer, messages, add_generation_prompt=True))
        start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        return [*start, *plain_ids(self.tokenizer, request.prompt + PLAIN_SEPARATOR)]

    def _generate(
        self, keys: Sequence[str], prompts: Sequence[list[int]], requests: Sequence[Request]
    ) -> list[Generated]:
        limits = [self._limit(prompt, request) for prompt, request in zip(prompts, requests, strict=True)]
        batch = self.tokenizer.pad({"input_ids": list(prompts)}, padding_side="left", return_tensors="pt")
        temperature = 0.0 if requests[0].statement else self._temperature  # a judge does not guess
        processors = LogitsProcessorList([SeededSampling(keys, temperature, self._top_p)])
        config = GenerationConfig(
            max_new_tokens=max(limits),
            do_sample=False,  # the processor draws
            eos_token_id=list(self._endings.token_ids),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with torch.inference_mode():
            output: Int[Tensor, "texts seq"] = self.network.generate(  # type: ignore[operator]
                batch["input_ids"].to(self.network.device),
                attention_mask=batch["attention_mask"].to(self.network.device),
                generation_config=config,
                logits_processor=processors,
            )
        written = output[:, batch["input_ids"].shape[1] :].tolist()
        return [
            self._answer(key, prompt, ids[:limit])
            for key, prompt, ids, limit in zip(keys, prompts, written, limits, strict=True)
        ]

    def _limit(self, prompt: Sequence[int], request: Request) -> int:
        passage_tokens = len(plain_ids(self.tokenizer, request.passage.text))
        wanted = int(request.form.max_length * passage_tokens) + _ROOM
        room = self._context - len(prompt) if self._context else wanted
        if room < min(wanted, passage_tokens // 2 + _ROOM):
            document = request.passage.document
            raise DataError(
                f"rewrite: {self.name} reads at most {self._context} tokens, but the form {request.form.name} about "
                f"a passage of {document.id} ({document.source}) needs {len(prompt)} for prompt, {wanted} for text",
                "set rewrite.passage_characters to a smaller number",
            )
        return min(wanted, room)

    def _answer(self, key: str, prompt: Sequence[int], ids: Sequence[int]) -> Generated:
        end = next((index for index, token in enumerate(ids) if token in self._endings.token_ids), None)
        text = str(self.tokenizer.decode(list(ids[:end]), skip_special_tokens=True))
        closing = self._endings.text
        if closing and closing in text:
            text, end = text.partition(closing)[0], len(ids)
        return Generated(
            key=key,
            text=text.strip(),
            is_whole=end is not None,
            tokens_read=len(prompt),
            tokens_written=len(ids) if end is None else end,
        )


class SeededSampling(LogitsProcessor):  # type: ignore[misc]
    """Add Gumbel noise to the logits, so that the largest one is a sample (Gumbel-max).

    Row i has the random numbers of its own seed, whatever other rows are in the batch. Temperature 0 adds no noise.
    """

    def __init__(self, seeds: Sequence[str], temperature: float, top_p: float) -> None:
        self._seeds, self._temperature, self._top_p = seeds, temperature, top_p
        self._generators: list[torch.Generator] = []

    def __call__(
        self, input_ids: Int[Tensor, "rows seq"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        if not self._temperature:
            return scores
        if not self._generators:
            self._generators = [_seeded(seed, scores.device) for seed in self._seeds]
        scaled = scores.float() / self._temperature
        if self._top_p < 1.0:
            scaled = _nucleus(scaled, self._top_p)
        uniform = torch.stack(
            [torch.rand(scores.shape[1], generator=generator, device=scores.device) for generator in self._generators]
        )
        return scaled - torch.log((-torch.log(uniform.clamp_min(1e-20))).clamp_min(1e-20))


def _seeded(seed: str, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(int(seed[:15], 16))


def _nucleus(logits: Float[Tensor, "rows vocab"], top_p: float) -> Float[Tensor, "rows vocab"]:
    """Return the logits with -inf for tokens outside the smallest set that has a probability of `top_p`."""
    ordered, indices = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    outside = probabilities.cumsum(dim=-1) - probabilities >= top_p
    return logits.masked_fill(outside.scatter(1, indices, outside), float("-inf"))
