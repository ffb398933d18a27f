"""Check of rows and packing against the architecture of the model, on a small random copy of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from mixcpt.checks.findings import Finding, Subject
from mixcpt.checks.loading import quiet
from mixcpt.checks.padding import padding_share
from mixcpt.checks.time_limit import within
from mixcpt.checks.trained_scope import scope_findings, scopes_of
from mixcpt.config import Scope
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


class _NotCausal(ModelError):
    """A model reads text in both directions."""


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of packed rows: their length, and a training step on a small copy of the model."""
    if not (subject.base and subject.architecture):
        return
    try:
        require_row_fits(subject.config.mixture.row_tokens, subject.base)
    except MixcptError as error:
        yield Finding.of(error)
    yield from _probe_findings(subject, subject.architecture)


def _probe_findings(subject: Subject, config: PretrainedConfig) -> Iterator[Finding]:
    """Yield the problems or the cost of packed rows in an architecture."""
    try:
        with quiet():
            leaking, findings = within(_SECONDS, partial(_first_answer, config, scopes_of(subject.config)))
    except Exception as error:  # noqa: BLE001 - a copy that cannot be made says nothing about the model
        _log.debug("no small copy of %s: %s", type(config).__name__, error)
        return
    yield from findings
    yield from _cost_findings(subject, leaking)


def _cost_findings(subject: Subject, leaking: str) -> Iterator[Finding]:
    """Yield the cost of one document per row, or the conflict of an architecture with `pretrain.packing`.

    `leaking` is the name of an architecture that mixes the documents of a packed row, or empty.
    """
    packing = subject.config.pretrain.packing
    if leaking and packing == "packed":
        yield Finding(
            problem=f"pretrain.packing is packed, but {leaking} mixes the documents of a packed row",
            remedy="set pretrain.packing to auto or one_document, or choose another model, such as Llama or Qwen",
        )
    elif leaking or packing == "one_document":
        share = padding_share(subject)
        cost = "" if share is None else f"; about {share:.0%} of what it reads is padding"
        reason = f"{leaking} mixes the documents of a packed row, so it" if leaking else "the model"
        yield Finding(
            problem=f"{'base.model' if leaking else 'pretrain.packing'}: {reason} reads one document per row{cost}",
            remedy="a model such as Llama or Qwen reads packed rows without padding"
            if leaking
            else "pretrain.packing: auto reads several documents per row, with the same loss",
            is_warning=True,
        )


def _first_answer(config: PretrainedConfig, scopes: Mapping[str, Scope] | None = None) -> tuple[str, list[Finding]]:
    """Return the name of the architecture if it leaks, and its problems, by the first usable small copy."""
    from mixcpt.checks.small_model import small_copies

    findings: list[Finding] = []
    for model, is_whole in small_copies(config):
        name = type(model).__name__
        try:
            leaking = name if _leaks(model) else ""
            return leaking, [*scope_findings(model, scopes or {}, is_whole=is_whole)]
        except _NotCausal as error:
            return "", [Finding(problem=f"base.model: {error.problem}", remedy=error.hint)]
        except ModelError as error:
            problem, remedy = error.problem, error.hint
        except Exception as error:  # noqa: BLE001 - an architecture that fails, with any error
            problem = f"{name} does not read packed rows as language models do: {first_line(error)}"
            remedy = _OTHER_MODEL
        findings = [Finding(problem=f"base.model: {problem}", remedy=remedy, is_warning=not is_whole)]
    return "", findings


def _leaks(model: PreTrainedModel) -> bool:
    """Return whether the model reads one document per row, because it mixes the documents of a packed row.

    Raises:
        ModelError: If its logits cannot be computed apart from it, or its tokens see later tokens.
    """
    from mixcpt.distill.model import check_model, decoder_of
    from mixcpt.distill.reading import reads_one_document

    check_model(model)
    require_causal(model)
    return reads_one_document(decoder_of(model))


def require_causal(model: PreTrainedModel) -> None:
    """Raise `ModelError` if the tokens of the model see later tokens."""
    import torch

    from mixcpt.distill.model import hidden_states

    positions = torch.arange(_NUM_TOKENS).unsqueeze(0)
    ids = positions + 5
    changed = ids.clone()
    changed[0, -1] = 3
    with torch.no_grad():
        states, others = (hidden_states(model.eval(), tokens, positions)[0, :-1] for tokens in (ids, changed))
    if (states - others).abs().max() > _TOLERANCE * max(1.0, states.abs().max().item()):
        raise _NotCausal(
            f"{type(model).__name__} lets tokens see later tokens, so it cannot learn to continue a text", _OTHER_MODEL
        )
