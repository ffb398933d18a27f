"""What a method minimises, in numbers: the weights of its terms, the teacher's transform, the divergence."""

from dataclasses import dataclass

from mixcpt.config import StreamConfig
from mixcpt.config.streams import Divergence, Transform


@dataclass(frozen=True)
class Objective:
    """The mean over scored tokens of ce_weight * CE + kl_weight * T^2 * D(q, p).

    q = transform(softmax(teacher / T)) and p = softmax(student / T); the divergence D is one of

        forward   KL(q || p)
        reverse   KL(p || q)
        jsd       beta * KL(q || m) + (1 - beta) * KL(p || m),  m = beta * q + (1 - beta) * p

    The last is the generalised Jensen-Shannon divergence of GKD, arXiv 2306.13649. It vanishes as beta goes to 0 or 1
    (divided by beta or 1 - beta it becomes forward or reverse), so the ends are refused rather than redefined.
    """

    ce_weight: float = 1.0
    kl_weight: float = 0.0
    transform: Transform = "none"
    temperature: float = 1.0
    """T softens teacher and student in the divergence only."""
    divergence: Divergence = "forward"
    beta: float = 0.5
    """The teacher's share of the mixture; read by `jsd` alone."""
    margin: float = 0.1
    """`margin`: the probability moved to the true token; `threshold`: how far it has to lead."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, found {self.temperature}")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must lie between 0 and 1, found {self.beta}; the ends are `forward` and `reverse`")
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin must be at least 0 and below 1, found {self.margin}")

    @property
    def needs_teacher(self) -> bool:
        return self.kl_weight > 0


def objective_of(stream: StreamConfig) -> Objective:
    """Returns the objective of a stream; the methods by name are presets of streams (METHODS 3)."""
    return Objective(
        ce_weight=stream.ce_weight,
        kl_weight=stream.kl_weight,
        transform=stream.transform,
        temperature=stream.temperature,
        divergence=stream.divergence,
        beta=stream.beta,
        margin=stream.margin,
    )
