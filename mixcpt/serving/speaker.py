"""A model that answers token by token: loaded for generation, with a key-value cache, on the GPU if there is one."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from mixcpt.serving.endings import Endings, find_endings
from mixcpt.serving.pieces import Answer, Pieces, Say
from mixcpt.store.models import ModelRef, load_model, load_tokenizer


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn from what the model predicts."""

    max_tokens: int = 256
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    seed: int = 0


@dataclass(frozen=True)
class Speaker:
    """A model loaded for generation, with its tokenizer."""

    model: ModelRef
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    endings: Endings
    max_context: int
    """The longest text it can read and write, in tokens; 0 where it does not say."""

    @property
    def description(self) -> str:
        """What is loaded, e.g. `2.1 M parameters, float32 on cpu`."""
        dtype = str(self.network.dtype).removeprefix("torch.")
        return f"{self.network.num_parameters() / 1e6:,.1f} M parameters, {dtype} on {self.network.device.type}"

    def answer(self, prompt_ids: Sequence[int], sampling: Sampling, say: Say) -> Answer:
        """Returns the answer to a prompt of at least one token, telling its pieces to `say` on the way.

        Ctrl-C ends the answer: what was told until then is the answer.
        """
        pieces = Pieces(self.tokenizer, self.endings, say)
        torch.manual_seed(sampling.seed)
        input_ids = torch.tensor([list(prompt_ids)], device=self.network.device)
        try:
            with torch.inference_mode(), _noting_the_key() as pressed:
                self.network.generate(  # type: ignore[operator]
                    input_ids,
                    attention_mask=torch.ones_like(input_ids),
                    generation_config=self._settings(sampling),
                    streamer=pieces,
                    stopping_criteria=StoppingCriteriaList([_Ended(pieces, pressed)]),
                )
        except KeyboardInterrupt:
            return pieces.finish("interrupted")
        if pressed.is_set():
            return pieces.finish("interrupted")
        return pieces.finish("finished" if pieces.is_closed else "length")

    def _settings(self, sampling: Sampling) -> GenerationConfig:
        drawn = {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0} if sampling.temperature else {}
        return GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            do_sample=bool(sampling.temperature),
            eos_token_id=list(self.endings.token_ids),
            pad_token_id=self.tokenizer.pad_token_id,
            use_cache=True,
            **drawn,
        )


def load_speaker(model: ModelRef) -> Speaker:
    """Returns the model ready to answer: in bfloat16 on the GPU, if there is one, else in float32 on the CPU."""
    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    network, tokenizer = load_model(model, dtype=dtype), load_tokenizer(model)
    endings = find_endings(tokenizer, network.generation_config)
    network.generation_config = GenerationConfig()  # sampling settings that came with the model would be mixed in
    longest = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    network.to(torch.device(device))  # type: ignore[arg-type]
    return Speaker(model, network, tokenizer, endings, int(longest or 0))


@contextmanager
def _noting_the_key() -> Iterator[threading.Event]:
    """Yields what Ctrl-C sets, instead of raising wherever it strikes: a library's callback would swallow it."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield pressed
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.set())
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


class _Ended(StoppingCriteria):  # type: ignore[misc]
    """Stops at Ctrl-C, and where the closing text of an answer is complete; closing tokens stop by themselves."""

    def __init__(self, pieces: Pieces, pressed: threading.Event) -> None:
        self._pieces = pieces
        self._pressed = pressed

    def __call__(self, input_ids: Int[Tensor, "batch seq"], scores: Any, **_: Any) -> Bool[Tensor, " batch"]:
        ended = self._pieces.is_closed or self._pressed.is_set()
        return torch.full((len(input_ids),), ended, device=input_ids.device)
