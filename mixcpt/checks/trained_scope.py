"""Check of the trained parameters: one backward pass of a small copy of the model in every scope of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mixcpt.checks.findings import Finding
from mixcpt.config import AdaptConfig, Scope
from mixcpt.errors import MixcptError
from mixcpt.store.models import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger(__name__)
_NUM_TOKENS = 8
_MAX_PARAMETERS = 150_000_000
"""Number of parameters of the largest copy whose gradients are computed, which takes about a second."""


def scopes_of(config: AdaptConfig) -> dict[str, Scope]:
    """Return the different scopes of a run by their keys."""
    scopes: dict[str, Scope] = {"pretrain.scope": config.pretrain.scope}
    if config.align.selection.num_instructions:
        scopes["align.sft.scope"] = config.align.sft.scope
    if config.align.selection.num_preferences:
        scopes["align.dpo.scope"] = config.align.dpo.scope
    firsts = {key for key, scope in scopes.items() if scope not in _before(key, scopes)}
    return {key: scope for key, scope in scopes.items() if key in firsts}


def _before(key: str, scopes: Mapping[str, Scope]) -> list[Scope]:
    keys = list(scopes)
    return [scopes[earlier] for earlier in keys[: keys.index(key)]]


def scope_findings(model: PreTrainedModel, scopes: Mapping[str, Scope], *, is_whole: bool) -> Iterator[Finding]:
    """Yield the problems of a backward pass in every scope, and the parameters that stay as they are.

    `is_whole` tells whether the copy is like the model; a problem of another copy is a warning.
    """
    from copy import deepcopy

    if sum(weight.numel() for weight in model.parameters()) > _MAX_PARAMETERS:
        return
    for key, scope in scopes.items():
        yield from _scope_findings(deepcopy(model), key, scope, is_whole=is_whole)


def _scope_findings(model: PreTrainedModel, key: str, scope: Scope, *, is_whole: bool) -> Iterator[Finding]:
    from mixcpt.train.reach import freeze_unreached, listed
    from mixcpt.train.scope import freeze_other_parts

    name = type(model).__name__
    try:
        freeze_other_parts(model)
        if kinds := freeze_unreached(model):
            yield Finding(
                problem=f"{key}: no loss of tokens reaches {listed(kinds)} of {name}, which stay as they are",
                remedy="everything else in scope is trained; a model without such modules is trained whole",
                is_warning=True,
            )
        _step_back(model, scope)
    except MixcptError as error:
        yield Finding(problem=f"{key}: {error.problem}", remedy=error.hint, is_warning=not is_whole)
    except Exception as error:  # noqa: BLE001 - an architecture that fails, with any error
        _log.debug("no backward pass of %s: %s", name, error)
        remedy = "set it to full, or choose another model" if scope.kind == "lora" else "choose another model"
        problem = f"{key}: a training step of {name} in scope {scope.kind} fails: {first_line(error)}"
        yield Finding(problem=problem, remedy=remedy, is_warning=not is_whole)


def _step_back(model: PreTrainedModel, scope: Scope) -> None:
    """Run a forward and a backward pass in a scope.

    Raises:
        ModelError: If the model does not take the scope, or a parameter in scope gets no gradient.
    """
    import torch

    from mixcpt.distill.model import head_of, hidden_states
    from mixcpt.train.scope import apply_scope, check_gradients

    student = apply_scope(model, scope, seed=0)
    student.train()
    positions = torch.arange(_NUM_TOKENS).unsqueeze(0)
    with torch.random.fork_rng(devices=()):
        hidden = hidden_states(student, positions + 5, positions)
        (hidden @ head_of(student).weight.T).square().mean().backward()
    check_gradients(student)
