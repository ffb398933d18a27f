"""Counts of lost and gained answers of one task, and confidence bounds on the loss."""

from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True)
class Tally:
    """Answers to the questions of one task, before and after training."""

    num_questions: int
    lost: int
    """Number of questions that only the base answers correctly."""
    gained: int
    """Number of questions that only the trained model answers correctly."""

    @property
    def net_loss(self) -> float:
        """Fraction of the questions lost, minus the fraction gained."""
        return (self.lost - self.gained) / self.num_questions

    def bound(self, confidence: float) -> float:
        """Return the upper confidence bound on the fraction lost, minus the fraction gained."""
        return lost_at_most(self.lost, self.num_questions, confidence) - self.gained / self.num_questions


def lost_at_most(lost: int, num_questions: int, confidence: float) -> float:
    """Return the one-sided upper bound of Clopper and Pearson on the fraction lost, if `lost` questions were lost."""
    from scipy import stats

    return 1.0 if lost >= num_questions else float(stats.beta.ppf(confidence, lost + 1, num_questions - lost))


def questions_needed(max_loss: float, confidence: float) -> int:
    """Return the least number of questions whose bound is at most `max_loss` if none of them is lost."""
    return next(number for number in count(1) if lost_at_most(0, number, confidence) <= max_loss)
