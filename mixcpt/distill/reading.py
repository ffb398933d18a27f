"""Reading of packed rows: as they are, or document by document if the architecture mixes the documents of a row."""

from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

_MARK = "mixcpt_reads_one_document"
"""Attribute of a decoder that reads packed rows document by document."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Output of a decoder for packed rows."""

    hidden: Float[Tensor, "batch seq hidden"]
    router_logits: tuple[Tensor, ...] = ()
    """Logits of the routers per layer, for the tokens as the decoder read them; empty if there are none."""
    is_token: Int[Tensor, "rows width"] | None = None
    """Whether a token that the decoder read belongs to a packed row; None if all do."""


def reads_one_document(decoder: nn.Module) -> bool:
    """Return whether the decoder reads packed rows document by document."""
    return bool(getattr(decoder, _MARK, False))


def read_one_document(decoder: nn.Module) -> None:
    """Make the decoder read packed rows document by document."""
    setattr(decoder, _MARK, True)


def decode(
    decoder: nn.Module,
    input_ids: Int[Tensor, "batch seq"],
    position_ids: Int[Tensor, "batch seq"],
    *,
    with_routers: bool = False,
) -> Decoded:
    """Return the last hidden states of packed rows; a document's tokens do not attend to other documents.

    transformers derives the borders of the documents from restarting `position_ids`, but only without an attention mask
    and without a key-value cache. For some architectures that is not enough; they read every document in a row of its
    own, filled with copies of its last token, which follow the document and so have no effect on it.
    """
    options: dict[str, Any] = {"use_cache": False}
    if with_routers:
        options["output_router_logits"] = True
    if not reads_one_document(decoder):
        output = decoder(input_ids=input_ids, position_ids=position_ids, **options)
        return Decoded(hidden=output.last_hidden_state, router_logits=_routers(output) if with_routers else ())
    if "use_cache" not in (names := signature(decoder.forward).parameters) and "kwargs" not in names:
        del options["use_cache"]
    index, is_token = one_document_rows(position_ids)
    output = decoder(input_ids=input_ids.flatten()[index], **options)
    states: Tensor = output.last_hidden_state
    hidden = states[is_token].unflatten(0, input_ids.shape)
    routers = _routers(output) if with_routers else ()
    return Decoded(hidden=hidden, router_logits=routers, is_token=is_token.long())


def num_places(decoder: nn.Module, position_ids: Int[Tensor, "batch seq"]) -> Int[Tensor, ""]:
    """Return the number of tokens that `decode` reads, including padding; does not wait for a GPU."""
    if not reads_one_document(decoder):
        return position_ids.new_tensor(position_ids.numel())
    return (position_ids == 0).sum() * (position_ids.max() + 1)


def one_document_rows(
    position_ids: Int[Tensor, "batch seq"],
) -> tuple[Int[Tensor, "rows width"], Bool[Tensor, "rows width"]]:
    """Return the rows with one document each: the index of every token among the packed ones, and which are not filled.

    The rows keep the order of the documents, so the tokens that are not filled have the order of the packed ones.
    """
    starts = (position_ids == 0).flatten().nonzero().squeeze(1)
    ends = torch.cat([starts[1:], starts.new_tensor([position_ids.numel()])])
    columns = torch.arange(int((ends - starts).max()), device=position_ids.device)
    index = starts.unsqueeze(1) + columns
    is_token = index < ends.unsqueeze(1)
    return torch.minimum(index, ends.unsqueeze(1) - 1), is_token


def _routers(output: Any) -> tuple[Tensor, ...]:
    logits = getattr(output, "router_logits", None) or ()
    return tuple(layer for layer in logits if isinstance(layer, Tensor))
