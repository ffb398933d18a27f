"""Log-probability of correct answers, and the distance of predictions from a reference model's, also on whole texts.

Accuracy hides how close a wrong answer is; the log-probability of the correct one shows it. The distance on general
prompts shows drift before any answer changes (docs/algorithms.md#drift).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

MAX_BATCH_LOGITS = 1 << 27
"""Maximum size of a batch's logits: prompts x tokens x vocabulary."""
Encode = Callable[[str, bool], list[int]]
"""Tokenizer function. The second argument is whether the text starts a prompt: some tokenizers add a token there."""


@dataclass(frozen=True)
class GoldScore:
    """The score of one correct answer."""

    log_prob: float
    """Log-probability of the correct answer after the prompt, in nats."""
    num_bytes: int
    is_likeliest: bool
    """Whether each token of the answer is the most likely one, so that a greedy answer begins with it."""
    kl_to_reference: float | None
    """Mean KL(reference || model) over prompt and correct answer, in nats per token; None without a reference."""


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
    """Return the score of every correct answer.

    Args:
        prompts: Complete prompts.
        answers: Correct answers, each with the white space before it.
        batch_size: Maximum prompts per forward pass; fewer if their logits would exceed `MAX_BATCH_LOGITS`.
        max_tokens: Context length of the model; a longer sequence loses its beginning.
        reference: Model whose predictions are compared with the model's.
    """
    rows = [
        _encoded(place, encode, prompt, answer=answer, max_tokens=max_tokens)
        for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    longest_first = sorted(rows, key=lambda row: -len(row.input_ids))
    scores: dict[int, GoldScore] = {}
    vocab_size = int(model.config.get_text_config().vocab_size)
    for batch in _batches(longest_first, batch_size, vocab_size):
        for row, (log_prob, is_likeliest, kl) in zip(batch, _score(model, reference, batch), strict=True):
            num_bytes = len(answers[row.place].strip().encode())
            scores[row.place] = GoldScore(log_prob, num_bytes, is_likeliest, kl_to_reference=kl)
    return [scores[place] for place in range(len(rows))]


def text_divergences(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    texts: Sequence[list[int]],
    *,
    batch_size: int,
    max_tokens: int,
) -> list[float | None]:
    """Return the mean KL(reference || model) of every text, in nats per token; None for a text of less than two tokens.

    Args:
        texts: Tokens of the texts, each with the token that starts it.
        batch_size: Maximum windows per forward pass; fewer if their logits would exceed `MAX_BATCH_LOGITS`.
        max_tokens: Context length of the models; a longer text is cut into windows that overlap by one token.
    """
    windows = []
    for place, text in enumerate(texts):
        starts = range(0, len(text) - 1, max_tokens - 1)
        windows += [_Encoded(place, text[start : start + max_tokens], 1) for start in starts]
    longest_first = sorted(windows, key=lambda window: -len(window.input_ids))
    sums, counts = [0.0] * len(texts), [0] * len(texts)
    vocab_size = int(model.config.get_text_config().vocab_size)
    for batch in _batches(longest_first, batch_size, vocab_size):
        for window, (_, _, kl) in zip(batch, _score(model, reference, batch), strict=True):
            predicted = len(window.input_ids) - 1
            sums[window.place] += (kl or 0.0) * predicted
            counts[window.place] += predicted
    return [total / count if count else None for total, count in zip(sums, counts, strict=True)]


def _encoded(place: int, encode: Encode, prompt: str, *, answer: str, max_tokens: int) -> _Encoded:
    """Return the tokens of prompt and answer, encoded separately if a token would span both."""
    start, whole = encode(prompt, True), encode(prompt + answer, True)
    if whole[: len(start)] != start:
        whole = start + encode(answer, False)
    cut = max(0, len(whole) - max_tokens)
    return _Encoded(place, whole[cut:], max(1, len(start) - cut))


def _batches(rows: Sequence[_Encoded], batch_size: int, vocab_size: int) -> Iterator[Sequence[_Encoded]]:
    """Yield rows in batches whose logits fit; the rows must be sorted, the longest first."""
    done = 0
    while done < len(rows):
        fitting = max(1, MAX_BATCH_LOGITS // (len(rows[done].input_ids) * vocab_size))
        batch = rows[done : done + min(batch_size, fitting)]
        yield batch
        done += len(batch)


def _score(
    model: PreTrainedModel, reference: PreTrainedModel | None, batch: Sequence[_Encoded]
) -> list[tuple[float, bool, float | None]]:
    length = max(len(row.input_ids) for row in batch)
    input_ids = torch.zeros(len(batch), length, dtype=torch.long, device=model.device)
    for number, row in enumerate(batch):
        input_ids[number, : len(row.input_ids)] = torch.tensor(row.input_ids)
    log_p = _log_probs(model, input_ids)
    # log p(x_t | x_<t) of the actual tokens, and whether each is the argmax
    token_log_probs = log_p.gather(2, input_ids[:, 1:, None]).squeeze(2)
    is_argmax = log_p.argmax(dim=2) == input_ids[:, 1:]
    kl = None
    if reference is not None:
        # KL(reference || model) = sum_v q_v (log q_v - log p_v)
        log_q = _log_probs(reference, input_ids)
        kl = functional.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=2)
    scores = []
    for number, row in enumerate(batch):
        end = len(row.input_ids) - 1  # leaves out the padding
        answer = slice(row.num_prompt_tokens - 1, end)
        log_prob = token_log_probs[number, answer].double().sum().item()
        mean_kl = None if kl is None else kl[number, :end].double().mean().item()
        scores.append((log_prob, bool(is_argmax[number, answer].all()), mean_kl))
    return scores


def _log_probs(model: PreTrainedModel, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq-1 vocab"]:
    """Return the predictions of all tokens but the first.

    Padding needs no mask: it is on the right, and causal attention does not look there.
    """
    with torch.inference_mode():
        logits = model(input_ids=input_ids, use_cache=False).logits[:, :-1]
    log_probs: Tensor = logits.float().log_softmax(dim=2)
    return log_probs
