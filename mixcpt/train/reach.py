"""Parameters that a loss of tokens reaches: those in the graph of the logits. Others never get a gradient."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_log = logging.getLogger("mixcpt.train")
_NUM_TOKENS = 10
_MAX_LISTED = 6


def freeze_unreached(model: nn.Module) -> list[str]:
    """Freeze the parameters that no loss of tokens reaches, log their kinds in one line, and return the kinds.

    These are indexers of sparse attention, attention to an encoder that is not there, and adapters of modules whose
    weight is read without calling them. Experts are left as they are: a few tokens do not reach all of them.
    """
    try:
        reached = _reached(model)
    except Exception as error:  # noqa: BLE001 - a model that cannot be tried is checked at its first training step
        _log.debug("gradients of %s are not tried: %s", type(model).__name__, error)
        return []
    missing = [
        (name, weight)
        for name, weight in model.named_parameters()
        if weight.requires_grad and id(weight) not in reached and not is_expert(name)
    ]
    for _, weight in missing:
        weight.requires_grad_(False)
    kinds = list(dict.fromkeys(kind_of(name) for name, _ in missing))
    if kinds:
        _log.info("%d parameters stay as they are, because no loss reaches them: %s", len(missing), listed(kinds))
    return kinds


def is_expert(name: str) -> bool:
    """Return whether a parameter belongs to one of several experts."""
    return "expert" in name


def kind_of(name: str) -> str:
    """Return a parameter's name without the number of its layer and without the names that adapters add."""
    name = name.removeprefix("base_model.model.").replace(".lora_A.default", "").replace(".lora_B.default", "")
    return ".".join(part for part in name.split(".") if not part.isdigit())


def listed(names: list[str]) -> str:
    """Return the first of some names as a text."""
    return ", ".join(names[:_MAX_LISTED]) + (
        f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    )


def _reached(model: nn.Module) -> set[int]:
    """Return the identities of the parameters in the graph of the logits of a few tokens."""
    own: Any = model
    training = model.training
    device = next(model.parameters()).device
    if device.type == "meta":
        raise ValueError("a model without values")
    num_embeddings = own.get_input_embeddings().weight.shape[0]
    ids = (7 * torch.arange(_NUM_TOKENS, device=device).unsqueeze(0) + 5) % num_embeddings
    drops_layers = any(getattr(module, "layerdrop", 0) for module in model.modules())
    model.train(not drops_layers)
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=()):
            logits: Tensor = own(input_ids=ids).logits
    finally:
        model.train(training)
    return {id(leaf) for leaf in _leaves(logits)}


def _leaves(output: Tensor) -> Iterator[Tensor]:
    """Yield the leaves of the graph of a tensor."""
    nodes: list[Any] = [output.grad_fn]
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        nodes += [following for following, _ in node.next_functions]
