"""In which order candidates are taken; pure functions of their losses."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mixcpt.config.align import Strategy

_DECIMALS = 4
"""Losses are compared in steps of 0.0001 nats, so that rounding noise of a batch decides no order."""

Losses = Float[np.ndarray, " candidates"]

FORMS: dict[Strategy, tuple[str, ...]] = {
    "random": (),
    "ppl_low": ("chat",),
    "ppl_low_plain": ("plain",),
    "gap": ("plain", "chat"),
    "known_gap": ("plain", "chat"),
}
"""The forms in which a strategy needs the losses; each costs one forward over the candidates."""


@dataclass(frozen=True)
class Ranking:
    """Candidates in the order in which they are taken."""

    order: Int[np.ndarray, " candidates"]
    scores: Losses
    """What the strategy ordered by, per candidate (not sorted); NaN for `random`."""
    num_preferred: int
    """So many at the head meet the strategy's condition; those behind only fill up."""


def rank(strategy: Strategy, plain_loss: Losses, chat_loss: Losses) -> Ranking:
    """Returns the order in which candidates are taken. Ties keep the order of the candidates, which is random.

    Args:
        plain_loss: Mean loss per answer token as plain text, in nats; ignored where `FORMS` does not ask for it.
        chat_loss: The same through the chat template.
    """
    plain, chat = np.round(plain_loss, _DECIMALS), np.round(chat_loss, _DECIMALS)
    if strategy == "random":
        return Ranking(np.arange(len(plain)), np.full(len(plain), np.nan), len(plain))
    if strategy == "known_gap":
        return _known_gap(plain, chat)
    if strategy == "gap":
        gap = np.round(chat - plain, _DECIMALS)
        return Ranking(np.argsort(-gap, kind="stable"), gap, len(gap))
    loss = chat if strategy == "ppl_low" else plain
    return Ranking(np.argsort(loss, kind="stable"), loss, len(loss))


def _known_gap(plain: Losses, chat: Losses) -> Ranking:
    """Returns the known half (plain loss not above the median) by falling gap, then the rest by rising plain loss.

    The gap is what the chat form adds to the loss: what is left to learn is form, not fact.
    """
    gap = np.round(chat - plain, _DECIMALS)
    known = plain <= np.median(plain) if len(plain) else np.zeros(0, dtype=bool)
    order = np.lexsort((np.where(known, -gap, plain), ~known))
    return Ranking(order, gap, int(known.sum()))
