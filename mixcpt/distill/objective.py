"""What a method minimises, in numbers: the weights of its terms, the teacher's transform, the temperature."""

from dataclasses import dataclass
from typing import assert_never

from mixcpt.config import CptMethod, CptReplayMethod, KlMethod, LssdMethod, Method
from mixcpt.distill.targets import TransformName


@dataclass(frozen=True)
class Objective:
    """The mean over scored tokens of ce_weight * CE + kl_weight * T^2 * KL(transform(teacher) || student)."""

    ce_weight: float = 1.0
    kl_weight: float = 0.0
    transform: TransformName = "none"
    temperature: float = 1.0
    """T softens teacher and student in the KL term only."""

    @property
    def needs_teacher(self) -> bool:
        return self.kl_weight > 0


def objective_of(method: Method) -> Objective:
    """Returns the objective of a method (METHODS: `cpt`, `cpt_replay`, `kl`, `lssd`).

    The formula of LSSD is the convex form of Mix-CPT, arXiv 2407.10804: alpha * NTP + (1 - alpha) * LSSD.
    """
    match method:
        case CptMethod() | CptReplayMethod():
            return Objective()
        case KlMethod():
            return Objective(kl_weight=method.kl_weight, temperature=method.temperature)
        case LssdMethod():
            return Objective(method.alpha, 1 - method.alpha, "swap", method.temperature)
    assert_never(method)
