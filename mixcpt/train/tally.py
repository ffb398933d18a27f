"""How one skill has changed, counted in questions, and what such a count can show."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tally:
    """The questions of one skill, asked before and after."""

    num_questions: int
    lost: int
    """Answered by the base and not any more."""
    gained: int
    """Answered now and not by the base."""

    @property
    def net_loss(self) -> float:
        """Share of the questions that is lost, less what is gained."""
        return (self.lost - self.gained) / self.num_questions

    def bound(self, sure: float) -> float:
        """Returns the share that is lost at most, with confidence `sure`, less what is gained."""
        return lost_at_most(self.lost, self.num_questions, sure) - self.gained / self.num_questions


def lost_at_most(lost: int, num_questions: int, sure: float) -> float:
    """Returns the one-sided upper bound on a share of which `lost` of `num_questions` were seen (Clopper-Pearson)."""
    from scipy import stats

    return 1.0 if lost >= num_questions else float(stats.beta.ppf(sure, lost + 1, num_questions - lost))


def questions_needed(max_loss: float, sure: float) -> int:
    """Returns how many questions can show, none of them lost, that no more than `max_loss` is."""
    num_questions = 1
    while lost_at_most(0, num_questions, sure) > max_loss:
        num_questions += 1
    return num_questions
