"""What a model thinks of the right answers, and how far its predictions have moved from another model's.

A wrong answer can be nearly right: the log-probability of the right one shows what accuracy hides, and how far a model
drifts on general prompts shows before an answer turns (METHODS 4: the training text is a poor place to watch that).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

MAX_BATCH_LOGITS = 1 << 27
"""Bounds a batch: prompts x tokens x vocabulary."""
Encode = Callable[[str, bool], list[int]]
"""Makes tokens of a text; tells whether it begins a prompt, as some tokenizers put a token there."""


@dataclass(frozen=True)
class GoldScore:
    """A model on one question and its right answer."""

    log_prob: float
    """Of the right answer after the prompt, in nats."""
    num_bytes: int
    """Of the right answer."""
    is_likeliest: bool
    """Whether each of its tokens is the likeliest, so that a greedy answer begins with it."""
    kl_to_reference: float | None
    """Mean KL(reference || model) in nats a token, over prompt and right answer; None without a reference."""


@dataclass(frozen=True)
class _Encoded:
    place: int
    input_ids: list[int]
    num_prompt_tokens: int


def score_gold(
    model: PreTrainedModel,
    encode: Encode,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    batch_size: int,
    max_tokens: int,
    reference: PreTrainedModel | None = None,
) -> list[GoldScore]:
    """Returns the score of each right answer.

    Args:
        model: Who is asked.
        encode: The model's tokenizer.
        prompts: The whole texts that the model was given.
        answers: What should follow, with the white space before it.
        batch_size: Prompts per forward, fewer where their logits would be large.
        max_tokens: The model's context; what is longer loses its beginning.
        reference: What the model's predictions are compared with.
    """
    rows = [
        _encoded(place, encode, prompt, answer, max_tokens)
        for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    found: dict[int, GoldScore] = {}
    for batch in _batches(sorted(rows, key=lambda row: -len(row.input_ids)), batch_size, _vocab_size(model)):
        for row, (log_prob, is_likeliest, kl) in zip(batch, _score(model, reference, batch), strict=True):
            found[row.place] = GoldScore(log_prob, len(answers[row.place].strip().encode()), is_likeliest, kl)
    return [found[place] for place in range(len(rows))]


def _encoded(place: int, encode: Encode, prompt: str, answer: str, max_tokens: int) -> _Encoded:
    """Returns prompt and answer as tokens; where the two would melt into one token, they are encoded apart."""
    start, whole = encode(prompt, True), encode(prompt + answer, True)
    if whole[: len(start)] != start:
        whole = start + encode(answer, False)
    cut = max(0, len(whole) - max_tokens)
    return _Encoded(place, whole[cut:], max(1, len(start) - cut))


def _batches(rows: Sequence[_Encoded], batch_size: int, vocab_size: int) -> Iterator[Sequence[_Encoded]]:
    """Yields rows, the longest first, in batches whose logits fit."""
    done = 0
    while done < len(rows):
        fitting = max(1, MAX_BATCH_LOGITS // (len(rows[done].input_ids) * vocab_size))
        size = min(batch_size, fitting)
        yield rows[done : done + size]
        done += size


def _score(
    model: PreTrainedModel, reference: PreTrainedModel | None, batch: Sequence[_Encoded]
) -> list[tuple[float, bool, float | None]]:
    length = max(len(row.input_ids) for row in batch)
    input_ids = torch.zeros(len(batch), length, dtype=torch.long, device=model.device)
    for number, row in enumerate(batch):
        input_ids[number, : len(row.input_ids)] = torch.tensor(row.input_ids)
    log_p = _log_probs(model, input_ids)
    of_token = log_p.gather(2, input_ids[:, 1:, None]).squeeze(2)
    is_first = log_p.argmax(dim=2) == input_ids[:, 1:]
    kl = None
    if reference is not None:
        log_q = _log_probs(reference, input_ids)
        kl = functional.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=2)
    scores = []
    for number, row in enumerate(batch):
        end = len(row.input_ids) - 1
        answer = slice(row.num_prompt_tokens - 1, end)
        log_prob, is_likeliest = of_token[number, answer].double().sum().item(), bool(is_first[number, answer].all())
        scores.append((log_prob, is_likeliest, None if kl is None else kl[number, :end].double().mean().item()))
    return scores


def _log_probs(model: PreTrainedModel, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq-1 vocab"]:
    """Returns the predictions of all tokens but the first; padding stands behind, where causal attention is blind."""
    with torch.inference_mode():
        logits = model(input_ids=input_ids, use_cache=False).logits[:, :-1]
    log_probs: Tensor = logits.float().log_softmax(dim=2)
    return log_probs


def _vocab_size(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().vocab_size)
