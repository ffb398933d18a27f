"""The balancing loss of mixtures of experts, which keeps their routers from sending all tokens to a few experts."""

import logging
import sys
from collections.abc import Callable
from typing import Any

from peft import PeftModel
from torch import Tensor

_log = logging.getLogger("mixcpt.distill")
Balance = Callable[[tuple[Tensor, ...], Tensor], Tensor]
"""Function of the routers' logits and the mask of the tokens that count."""


def balance_of(model: Any) -> Balance | None:
    """Return the balancing loss of the model, times its coefficient; None if its configuration has none turned on."""
    own: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = own.config.get_text_config()
    coefficient = float(getattr(config, "router_aux_loss_coef", None) or 0.0)
    if not getattr(config, "output_router_logits", False) or not coefficient:
        return None
    function = _function_of(own)
    if function is None:
        return None

    def balance(router_logits: tuple[Tensor, ...], mask: Tensor) -> Tensor:
        loss: Tensor = function(router_logits, own.num_experts, own.num_experts_per_tok, mask)
        return coefficient * loss

    return balance


def warn_if_unbalanced(model: Any) -> None:
    """Log a warning if the configuration asks for a balancing loss that cannot be computed apart from the model."""
    own: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = own.config.get_text_config()
    if getattr(config, "output_router_logits", False) and balance_of(model) is None:
        _log.warning(
            "%s: output_router_logits is on, but its routers are trained without a balancing loss", type(own).__name__
        )


def _function_of(model: Any) -> Callable[..., Tensor] | None:
    """Return the balancing loss of an architecture as its module in transformers defines it."""
    function = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
    is_complete = hasattr(model, "num_experts") and hasattr(model, "num_experts_per_tok")
    return function if callable(function) and is_complete else None
