"""Cost of a training: memory and floating-point operations."""

import resource
import sys

import torch

from mixcpt.distill.model import CausalModel

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def peak_memory_bytes() -> int:
    """Return the peak memory of this process: on the GPU if there is one, otherwise resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def student_flops_per_token(model: CausalModel, *, recompute: bool) -> int:
    """Return 4 N + 2 N_trained (6 N if all weights are trained), plus 2 N if activations are recomputed.

    N counts the weights that tokens are multiplied with (Kaplan et al., arXiv 2001.08361, section 2.1): all weights
    except an embedding table that is not also the head. A frozen weight needs no gradient of its own, but gradients
    pass through it. Attention scores are left out.
    """
    passes = 6 if recompute else 4
    return passes * multiplied_weights(model) + 2 * multiplied_weights(model, trained_only=True)


def multiplied_weights(model: CausalModel, *, trained_only: bool = False) -> int:
    """Return the number of weights that a token is multiplied with (N above), or of the trained ones among them."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = any(weight is head.weight for weight in embedding.parameters())
    unused = set() if tied else {id(weight) for weight in embedding.parameters()}
    # modules that adapters train as a whole are trained in a copy; the original is kept but unused
    unused |= {id(weight) for name, weight in model.named_parameters() if ".original_module." in name}
    return sum(
        weight.numel()
        for weight in model.parameters()
        if id(weight) not in unused and (weight.requires_grad or not trained_only)
    )
