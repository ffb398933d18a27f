"""Streams of a training: the text that each one reads, and the loss that the student minimises on it.

docs/algorithms.md#one-loss has the equations.
"""

from typing import Literal

from pydantic import Field, model_validator

from mixcpt.config.base import Fraction, PositiveFloat, PositiveInt, Settings

View = Literal["text", "split_contexts", "halves"]
Transform = Literal["none", "swap", "margin", "threshold", "mask"]
Form = Literal["text", "reading", "questions_after", "questions_before"]


class ViewConfig(Settings):
    """Parts of a document that teacher and student read."""

    view: View = "text"
    """Parts of a document that student and teacher read. `text`: both read the same. `split_contexts` (DiSC): the
    student reads single sentences, the teacher the whole document. `halves`: the student reads the second half, the
    teacher the whole document."""
    splits: PositiveInt = 5
    """Number of sentences drawn from each document, always including the last one (`split_contexts` only)."""
    parity: bool = False
    """Whether to reproduce the published DiSC code: sentences tokenised separately, no BOS token, first token not
    scored (`split_contexts` only)."""
    student_context: Literal["none", "title"] = "none"
    """Text in front of the student's part: `none`, or `title` (the first line of the document, if it is short)."""
    language: str = Field("en", pattern=r"^[a-z]{2,3}$")
    """ISO 639 code of the documents' language, used to split sentences (`split_contexts` and `halves` only)."""


class ObjectiveConfig(Settings):
    """Loss of one token: ce_weight * CE + kl_weight * T^2 * KL(q || p).

    q = transform(softmax(teacher / T)) is the target, p = softmax(student / T), and CE the next-token cross-entropy.
    """

    ce_weight: float = Field(0.5, ge=0)
    """Weight of the next-token cross-entropy; 0 trains by distillation only."""
    kl_weight: float = Field(0.5, ge=0)
    """Weight of the distillation term KL(teacher || student); 0 needs no teacher."""
    transform: Transform = "swap"
    """Correction of the teacher's prediction before distillation. `none`: no correction. `swap`: exchange the top logit
    with that of the true token. `margin`: move the probability `margin` to the true token. `threshold`: move only as
    much as the true token needs to lead by `margin`. `mask`: drop tokens that the teacher predicts wrongly."""
    temperature: PositiveFloat = 1.0
    """Softmax temperature of teacher and student in the distillation term; above 1 is softer."""
    margin: float = Field(0.1, ge=0, lt=1)
    """Probability that `margin` moves to the true token, or by which `threshold` makes it lead (these two transforms
    only)."""

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss has a distillation term."""
        return self.kl_weight > 0


class StreamConfig(ViewConfig, ObjectiveConfig):
    """One term of the training loss: `weight` times the mean loss over the scored tokens of a stream of text."""

    name: str = Field("mixture", pattern=r"^[a-z][a-z0-9_]*$")
    """Name of the stream in its metrics."""
    reads: Literal["mixture", "domain"] = "mixture"
    """Text that the stream reads: `mixture` (every pool, by `mixture.weights`) or `domain` (domain documents only)."""
    form: Form = "text"
    """Form of the domain documents. `text`: unchanged. `reading`: followed by tasks mined from the document (AdaptLLM).
    `questions_after` and `questions_before`: with mined questions and answers after or before the document."""
    phase: int = Field(0, ge=0)
    """Phase in which the stream is read, from 0. A phase starts when all streams of the earlier phases are finished."""
    tokens_fraction: PositiveFloat = 1.0
    """Share of `mixture.total_tokens` that the stream reads, relative to the other streams; normalised to a sum of
    1."""
    weight: PositiveFloat = 1.0
    """Weight of the stream's mean loss in the total loss."""
    talr_floor: Fraction = 0.0
    """Minimum weight of a token if next-token losses are weighted by p^(1 / tau) (TALR); the method `talr` uses 0.01. 0
    weights all tokens equally."""

    @model_validator(mode="after")
    def _check(self) -> "StreamConfig":
        if problem := self._view_problem() or self._loss_problem():
            raise ValueError(f"stream {self.name}: {problem}")
        return self

    def _view_problem(self) -> str:
        if self.parity and (self.view != "split_contexts" or self.student_context != "none"):
            return (
                "parity reproduces the published code, which supports only split_contexts without a title: "
                "set parity to false, or student_context to none"
            )
        if self.view == "text":
            return ""
        if self.reads != "domain":
            return f"view {self.view} reads documents: set reads to domain"
        if self.form != "text":
            return f"view {self.view} reads unchanged documents: set form to text"
        return "" if self.needs_teacher else f"view {self.view} needs a teacher: set kl_weight above 0"

    def _loss_problem(self) -> str:
        if self.ce_weight == self.kl_weight == 0:
            return "ce_weight and kl_weight are both 0, so there is nothing to learn"
        if self.talr_floor > 0 and self.needs_teacher:
            return "talr_floor weights next-token losses only: set kl_weight to 0"
        return ""
