"""Metrics of a training between two logs: loss, its terms and the teacher, per stream and source, and speed."""

import time
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mixcpt.config import ObjectiveConfig, StreamConfig
from mixcpt.distill.chunk import MEASURES


class Diagnostics:
    """Accumulates the sums of the fused loss over a window of steps.

    A training of one stream has the metrics `loss`, `ce`, ... and `<source>/ce`. A training of several streams has
    `loss`, the weighted sum of the streams' losses, and all others per stream: `<stream>/ce`, `<stream>/<source>/ce`.
    """

    def __init__(self, source_names: Sequence[str], streams: Sequence[StreamConfig], device: torch.device) -> None:
        self._names = tuple(source_names)
        self._streams = tuple(streams)
        shape = len(self._streams), len(self._names), len(MEASURES)
        self._sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self._balance: Tensor | None = None
        self._num_tokens = 0
        self._read = torch.zeros(2, dtype=torch.float64, device=device)
        """Tokens of text, and places of tokens, that the student read."""
        self._num_steps = 0
        self._started: float | None = None

    def begin(self) -> None:
        """Start the clock unless it is running. Time between two windows (checkpoints) is not counted."""
        if self._started is None:
            self._started = time.perf_counter()
        self._num_steps += 1

    def add(self, stream: int, sums: Float[Tensor, "sources measures"]) -> None:
        """Add the measures of one stream of a micro-batch."""
        self._sums[stream] += sums

    def add_balance(self, loss: Float[Tensor, ""]) -> None:
        """Add a micro-batch's share of the balancing loss of a mixture of experts."""
        self._balance = loss if self._balance is None else self._balance + loss

    def add_read(self, num_text_tokens: Tensor, num_places: Tensor) -> None:
        """Add the tokens of text in a micro-batch, and its places for tokens, including padding."""
        self._read += torch.stack([num_text_tokens, num_places])

    def end_batch(self, num_tokens: int) -> None:
        """Count a micro-batch of `num_tokens` tokens, padding included."""
        self._num_tokens += num_tokens

    def cross_entropy(self, over_processes: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the mean cross-entropy of every stream that was read in this window."""
        sums = over_processes(self._sums.sum(dim=1)).cpu()
        tokens, ce = sums[:, MEASURES.index("tokens")].tolist(), sums[:, MEASURES.index("ce")].tolist()
        parts = zip(self._streams, tokens, ce, strict=True)
        return {stream.name: total / count for stream, count, total in parts if count > 0}

    def drain(self, over_processes: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """End the window and return its metrics; `over_processes` sums a tensor over all processes."""
        seconds = time.perf_counter() - (self._started or 0.0)
        sums = over_processes(self._sums).cpu()
        num_tokens = over_processes(self._sums.new_tensor(self._num_tokens)).item()
        metrics = {"seconds": seconds, "tokens_per_second": num_tokens / seconds}
        num_text_tokens, num_places = over_processes(self._read).tolist()
        metrics |= {"padding": 1 - num_text_tokens / num_places, "places": num_places} if num_places else {}
        parts = [self._of_stream(*pair) for pair in zip(self._streams, sums, strict=True)]
        if len(parts) == 1:
            metrics |= parts[0]
        else:
            loss = sum(stream.weight * part["loss"] for stream, part in zip(self._streams, parts, strict=True))
            metrics |= {"loss": loss, "scored_tokens": sums[..., 0].sum().item()}
            for stream, part in zip(self._streams, parts, strict=True):
                metrics |= {f"{stream.name}/{name}": value for name, value in part.items()}
        if self._balance is not None:
            metrics["balance"] = over_processes(self._balance).item() / self._num_steps
        self._read = torch.zeros_like(self._read)
        self._sums, self._balance, self._num_tokens = torch.zeros_like(self._sums), None, 0
        self._num_steps, self._started = 0, None
        return metrics

    def _of_stream(self, stream: StreamConfig, sums: Float[Tensor, "sources measures"]) -> dict[str, float]:
        metrics = _means(sums.sum(dim=0), stream)
        for name, row in zip(self._names, sums, strict=True):
            if row[0] > 0:
                metrics |= {f"{name}/{metric}": value for metric, value in _means(row, stream).items()}
        return metrics


def _means(row: Float[Tensor, " measures"], objective: ObjectiveConfig) -> dict[str, float]:
    """Return the means over the scored tokens."""
    sums = dict(zip(MEASURES, row.tolist(), strict=True))
    tokens = sums["tokens"]
    loss, ce, kl, correct, gap = (sums[name] / max(tokens, 1) for name in ("loss", "ce", "kl", "correct", "gap"))
    metrics = {"loss": loss, "ce": ce, "scored_tokens": tokens}
    if objective.needs_teacher:
        metrics |= {"kl": kl, "teacher_accuracy": correct, "teacher_gap": gap}
    if objective.needs_teacher and objective.transform == "swap":
        metrics["swap_rate"] = 1 - correct
    return metrics
