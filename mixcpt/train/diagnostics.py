"""What a training measures between two logs: loss, terms and teacher, in total and per source, and the speed."""

import time
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mixcpt.distill.chunk import MEASURES
from mixcpt.distill.objective import Objective


class Diagnostics:
    """Adds up the sums of the fused loss over a window of steps."""

    def __init__(self, source_names: Sequence[str], objective: Objective, device: torch.device) -> None:
        self._names = tuple(source_names)
        self._objective = objective
        self._sums = torch.zeros(len(self._names), len(MEASURES), dtype=torch.float64, device=device)
        self._num_tokens = 0
        self._started: float | None = None

    def begin(self) -> None:
        """Starts the clock, unless it runs already: time between two windows (checkpoints) is not counted."""
        if self._started is None:
            self._started = time.perf_counter()

    def add(self, sums: Float[Tensor, "sources measures"], num_tokens: int) -> None:
        """Takes in one micro-batch of `num_tokens` tokens, padding included."""
        self._sums += sums
        self._num_tokens += num_tokens

    def drain(self, over_processes: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Returns the metrics of the window and ends it; `over_processes` adds a tensor up over all processes."""
        seconds = time.perf_counter() - (self._started or 0.0)
        sums = over_processes(self._sums).cpu()
        num_tokens = over_processes(self._sums.new_tensor(self._num_tokens)).item()
        metrics = {**self._of(sums.sum(dim=0)), "seconds": seconds, "tokens_per_second": num_tokens / seconds}
        for name, row in zip(self._names, sums, strict=True):
            if row[0] > 0:
                metrics |= {f"{name}/{metric}": value for metric, value in self._of(row).items()}
        self._sums, self._num_tokens, self._started = torch.zeros_like(self._sums), 0, None
        return metrics

    def _of(self, row: Float[Tensor, " measures"]) -> dict[str, float]:
        """Returns the means over the scored tokens of one source, or of all."""
        sums = dict(zip(MEASURES, row.tolist(), strict=True))
        tokens = sums["tokens"]
        ce, kl, correct, gap = (sums[name] / max(tokens, 1) for name in ("ce", "kl", "correct", "gap"))
        objective = self._objective
        metrics = {"loss": objective.ce_weight * ce + objective.kl_weight * kl, "ce": ce, "scored_tokens": tokens}
        if objective.needs_teacher:
            metrics |= {"kl": kl, "teacher_accuracy": correct, "teacher_gap": gap}
        if objective.needs_teacher and objective.transform == "swap":
            metrics["swap_rate"] = 1 - correct
        return metrics
