"""What a training minimises, as streams: who reads what, and what the student is pulled towards (METHODS 3)."""

from typing import Literal

from pydantic import Field, model_validator

from mixcpt.config.base import Fraction, PositiveFloat, PositiveInt, Settings

View = Literal["text", "split_contexts", "halves"]
Transform = Literal["none", "swap", "margin", "threshold", "mask"]
Divergence = Literal["forward", "reverse", "jsd"]
Form = Literal["text", "reading", "questions_after", "questions_before"]


class ViewConfig(Settings):
    """How teacher and student see a document."""

    view: View = "text"
    """`text`: both read the same. `split_contexts` (DiSC): the student reads single sentences, the teacher the whole
    document. `halves`: the student reads the second half, the teacher the whole document."""
    splits: PositiveInt = 5
    """`split_contexts`: sentences drawn from a document, the last one always among them."""
    parity: bool = False
    """`split_contexts`: the published code's behaviour (sentences tokenised apart, no BOS, first token not scored)."""
    student_context: Literal["none", "title"] = "none"
    """What stands before the student's part: nothing, or the document's first line where that is short."""

    language: str = Field("en", pattern=r"^[a-z]{2,3}$")
    """ISO 639 code of the documents' language, by which sentences are told apart (`split_contexts`, `halves`)."""


class ObjectiveConfig(Settings):
    """Loss of one token: ce_weight * CE + kl_weight * T^2 * D(q, p).

    q = transform(softmax(teacher / T)) is the target, p = softmax(student / T), and CE the next-token cross-entropy.
    """

    ce_weight: float = Field(0.5, ge=0)
    """Weight of next-token prediction."""
    kl_weight: float = Field(0.5, ge=0)
    """Weight of the distillation; 0 needs no teacher."""
    transform: Transform = "swap"
    """What makes the teacher's prediction agree with the true token."""
    divergence: Divergence = "forward"
    """`forward`: KL(teacher || student). `reverse`: KL(student || teacher). `jsd`: between the two, see beta."""
    temperature: PositiveFloat = 1.0
    """Softens teacher and student in the distillation term only."""
    margin: float = Field(0.1, ge=0, lt=1)
    """`margin`: probability moved to the true token. `threshold`: how far it has to lead."""
    beta: float = Field(0.5, gt=0, lt=1)
    """`jsd`: the teacher's share of the mixture."""

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss has a distillation term."""
        return self.kl_weight > 0


class StreamConfig(ViewConfig, ObjectiveConfig):
    """One stream of a training: weight * mean over its scored tokens of ce_weight * CE + kl_weight * T^2 * D."""

    name: str = Field("mixture", pattern=r"^[a-z][a-z0-9_]*$")
    """Under which it is measured."""
    reads: Literal["mixture", "domain"] = "mixture"
    """`mixture`: every pool, by `mixture.weights`. `domain`: domain documents alone."""
    form: Form = "text"
    """`reading`: tasks mined from a domain document are appended to it (AdaptLLM). `questions_after` and
    `questions_before`: mined questions and answers after or before it."""
    phase: int = Field(0, ge=0)
    """Streams of a later phase begin when those of the earlier ones have been read."""
    tokens_fraction: PositiveFloat = 1.0
    """Share of `mixture.total_tokens` that this stream reads; all streams are normalised to 1."""
    weight: PositiveFloat = 1.0
    """Weight of the stream's mean loss in the sum."""
    talr_floor: Fraction = 0.0
    """Above 0, next-token losses are weighted by p^(1 / tau), at least this much (TALR); METHODS uses 0.01."""

    @model_validator(mode="after")
    def _check(self) -> "StreamConfig":
        if self.ce_weight == self.kl_weight == 0:
            raise ValueError(f"stream {self.name}: ce_weight and kl_weight are both 0, there is nothing to learn")
        if self.view != "text" and self.reads != "domain":
            raise ValueError(f"stream {self.name}: view {self.view} reads documents: set reads to domain")
        if self.view != "text" and self.form != "text":
            raise ValueError(f"stream {self.name}: view {self.view} reads documents as they are: set form to text")
        if self.view != "text" and self.kl_weight == 0:
            raise ValueError(f"stream {self.name}: view {self.view} is nothing without a teacher: set kl_weight")
        if self.parity and (self.view != "split_contexts" or self.student_context != "none"):
            raise ValueError(
                f"stream {self.name}: parity is the published code, which knows split_contexts without a title: "
                "set parity to false, or student_context to none"
            )
        if self.talr_floor > 0 and self.kl_weight > 0:
            raise ValueError(f"stream {self.name}: talr_floor weighs next-token losses alone: set kl_weight to 0")
        return self
