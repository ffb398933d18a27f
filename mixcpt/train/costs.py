"""What a training cost: memory and floating-point operations."""

import resource
import sys

import torch
from transformers import PreTrainedModel

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def peak_memory_bytes() -> int:
    """Returns the most memory this process has held: on the GPU where it trains on one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def flops_per_token(student: PreTrainedModel, teacher: PreTrainedModel | None, *, recompute: bool) -> int:
    """Returns 6 N for the student (8 N with recomputed activations) plus 2 N for the teacher.

    N counts the weights that tokens are multiplied with (Kaplan et al., arXiv 2001.08361, section 2.1): all but an
    embedding table that is not the head as well. Attention scores are left out.
    """
    passes = 8 if recompute else 6
    return passes * _multiplied(student) + (2 * _multiplied(teacher) if teacher else 0)


def _multiplied(model: PreTrainedModel) -> int:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    looked_up = 0 if embedding.weight is head.weight else sum(weight.numel() for weight in embedding.parameters())
    return sum(weight.numel() for weight in model.parameters()) - looked_up
