"""Check of rows and packing against the architecture of the model, on a small random copy of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from mixcpt.checks.findings import Finding, Subject
from mixcpt.checks.loading import quiet
from mixcpt.checks.time_limit import within
from mixcpt.errors import MixcptError, ModelError
from mixcpt.mixture.tokens import require_row_fits
from mixcpt.store.models import first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_log = logging.getLogger(__name__)
_SECONDS = 20.0
_NUM_TOKENS = 8
_TOLERANCE = 1e-3
"""Largest effect of rounding on hidden states, relative to the largest of them."""
_OTHER_MODEL = "choose another model, such as Llama or Qwen"


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of packed rows: their length, and a training step on a small copy of the model."""
    if not (subject.base and subject.architecture):
        return
    try:
        require_row_fits(subject.config.mixture.row_tokens, subject.base)
    except MixcptError as error:
        yield Finding.of(error)
    yield from _probe_problems(subject.architecture)


def _probe_problems(config: PretrainedConfig) -> Iterator[Finding]:
    """Yield a problem if the architecture cannot be trained on packed rows."""
    try:
        with quiet():
            yield from within(_SECONDS, partial(_first_answer, config))
    except Exception as error:  # noqa: BLE001 - a copy that cannot be made says nothing about the model
        _log.debug("no small copy of %s: %s", type(config).__name__, error)


def _first_answer(config: PretrainedConfig) -> list[Finding]:
    """Return the findings about the first small copy that can be used, else those about the last one."""
    from mixcpt.checks.small_model import small_copies

    findings: list[Finding] = []
    for model, is_whole in small_copies(config):
        try:
            _probe(model)
            return []
        except ModelError as error:
            return [Finding(problem=f"base.model: {error.problem}", remedy=error.hint)]
        except Exception as error:  # noqa: BLE001 - an architecture that fails, with any error
            problem = (
                f"base.model: {type(model).__name__} does not read packed rows as language models do: "
                f"{first_line(error)}"
            )
            findings = [Finding(problem=problem, remedy=_OTHER_MODEL, is_warning=not is_whole)]
    return findings


def _probe(model: PreTrainedModel) -> None:
    """Raise `ModelError` if documents of a row see each other, or tokens see later tokens."""
    from mixcpt.distill.model import check_model

    with quiet():
        check_model(model)
        _require_causal(model)


def _require_causal(model: PreTrainedModel) -> None:
    import torch

    from mixcpt.distill.model import hidden_states

    positions = torch.arange(_NUM_TOKENS).unsqueeze(0)
    ids = positions + 5
    changed = ids.clone()
    changed[0, -1] = 3
    with torch.no_grad():
        states, others = (hidden_states(model.eval(), tokens, positions)[0, :-1] for tokens in (ids, changed))
    if (states - others).abs().max() > _TOLERANCE * max(1.0, states.abs().max().item()):
        raise ModelError(
            f"{type(model).__name__} lets tokens see later tokens, so it cannot learn to continue a text", _OTHER_MODEL
        )
