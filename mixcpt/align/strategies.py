"""The order in which candidates are selected: pure functions of their losses."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mixcpt.config.align import Strategy

_DECIMALS = 4
"""Decimals of the losses when they are compared, so that rounding errors of a batch do not change the order."""

Losses = Float[np.ndarray, " candidates"]

FORMS: dict[Strategy, tuple[str, ...]] = {
    "random": (),
    "ppl_low": ("chat",),
    "ppl_low_plain": ("plain",),
    "gap": ("plain", "chat"),
    "known_gap": ("plain", "chat"),
}
"""Forms whose losses a strategy needs; every form costs one forward per candidate."""


@dataclass(frozen=True)
class Ranking:
    """Candidates in the order of selection."""

    order: Int[np.ndarray, " candidates"]
    scores: Losses
    """Value that the strategy sorts by, per candidate (not sorted); NaN for `random`."""
    num_preferred: int
    """Number of first candidates that meet the condition of the strategy; the rest is used only if too few do."""


def rank(strategy: Strategy, plain_loss: Losses, chat_loss: Losses) -> Ranking:
    """Return the order of selection. Candidates with equal scores keep their order, which is random.

    Args:
        strategy: Strategy of the selection.
        plain_loss: Mean loss per answer token as plain text, in nats; ignored if `FORMS` of the strategy lacks it.
        chat_loss: Mean loss per answer token with the chat template, in nats; ignored in the same way.
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
    """Return the known half (plain loss at most the median) by decreasing gap, then the rest by increasing plain loss.

    The gap is the increase of the loss by the chat form. A known answer with a large gap lacks only the form.
    """
    gap = np.round(chat - plain, _DECIMALS)
    known = plain <= np.median(plain) if len(plain) else np.zeros(0, dtype=bool)
    order = np.lexsort((np.where(known, -gap, plain), ~known))
    return Ranking(order, gap, int(known.sum()))
