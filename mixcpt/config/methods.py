"""Training methods: presets of streams by name, or a list of custom streams (docs/algorithms.md#one-loss)."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mixcpt.config.base import Fraction, PositiveFloat, PositiveInt, Settings, kind, require_unique
from mixcpt.config.streams import Form, StreamConfig, Transform


def _next_token(name: str, **settings: Any) -> StreamConfig:
    """Return a stream of plain next-token prediction."""
    return StreamConfig(name=name, ce_weight=1, kl_weight=0, transform="none", **settings)


def _distilled(**settings: Any) -> StreamConfig:
    """Return a stream of documents with distillation only, whose teacher reads more than the student."""
    return StreamConfig(name="documents", reads="domain", ce_weight=0, kl_weight=1, transform="none", **settings)


class CptMethod(Settings):
    """Plain continual pre-training on domain documents: next-token prediction, no teacher."""

    kind: Literal["cpt"] = kind("cpt")

    def streams(self) -> tuple[StreamConfig, ...]:
        return (_next_token("documents", reads="domain"),)


class CptReplayMethod(Settings):
    """Next-token prediction on domain and general text together, no teacher."""

    kind: Literal["cpt_replay"] = kind("cpt_replay")

    def streams(self) -> tuple[StreamConfig, ...]:
        return (_next_token("mixture"),)


class KlMethod(Settings):
    """Next-token prediction plus a small pull towards the base model's own predictions."""

    kind: Literal["kl"] = kind("kl")
    kl_weight: float = Field(0.1, ge=0)
    """Weight of KL(base || student), relative to a cross-entropy of weight 1; 0 removes the pull."""
    temperature: PositiveFloat = 1.0
    """Softmax temperature of teacher and student in the KL term; above 1 is softer."""

    def streams(self) -> tuple[StreamConfig, ...]:
        return (StreamConfig(ce_weight=1, kl_weight=self.kl_weight, transform="none", temperature=self.temperature),)


class _Convex(Settings):
    """alpha * CE + (1 - alpha) * KL on the mixture."""

    alpha: Fraction = 0.5
    """Weight of next-token prediction; the distillation has weight 1 - alpha. 1 is plain training."""
    temperature: PositiveFloat = 1.0
    """Softmax temperature of teacher and student in the distillation term; above 1 is softer."""
    _transform: ClassVar[Transform]

    def streams(self) -> tuple[StreamConfig, ...]:
        weights = {"ce_weight": self.alpha, "kl_weight": 1 - self.alpha}
        return (StreamConfig(transform=self._transform, temperature=self.temperature, **weights),)


class LssdMethod(_Convex):
    """Mix-CPT's logit swap self-distillation: the base model teaches, with its top logit swapped to the true token."""

    kind: Literal["lssd"] = kind("lssd")
    _transform = "swap"


class NoneMethod(_Convex):
    """Plain self-distillation: the base model teaches with its own predictions, right or wrong."""

    kind: Literal["none"] = kind("none")
    _transform = "none"


class MaskMethod(_Convex):
    """Self-distillation on the tokens that the base model predicts correctly."""

    kind: Literal["mask"] = kind("mask")
    _transform = "mask"


class MarginMethod(Settings):
    """Distillation only: the base model's predictions, moved towards the true token by a margin ("minifinetuning")."""

    kind: Literal["margin"] = kind("margin")
    margin: float = Field(0.1, gt=0, lt=1)
    """Probability that `share` moves to the true token, or by which `lead` makes it exceed the base model's first
    choice."""
    correction: Literal["share", "lead"] = "share"
    """Amount of probability moved to the true token. `share`: the same for every token. `lead`: as much as the token
    needs to lead by `margin` (arXiv 2506.15702)."""
    temperature: PositiveFloat = 1.0
    """Softmax temperature of teacher and student; above 1 is softer."""

    def streams(self) -> tuple[StreamConfig, ...]:
        transform: Transform = "margin" if self.correction == "share" else "threshold"
        settings = {"margin": self.margin, "temperature": self.temperature}
        return (StreamConfig(ce_weight=0, kl_weight=1, transform=transform, **settings),)


class DiscMethod(Settings):
    """DiSC: the student reads one sentence and learns the predictions of a base model that reads the whole document."""

    kind: Literal["disc"] = kind("disc")
    splits: PositiveInt = 5
    """Number of sentences drawn from each document, always including the last one."""
    temperature: PositiveFloat = 2.0
    """Softmax temperature of teacher and student; above 1 is softer."""
    parity: bool = False
    """Whether to reproduce the published DiSC code: sentences tokenised separately, no BOS token, first token not
    scored."""
    student_context: Literal["none", "title"] = "none"
    """Text in front of the student's sentence: `none`, or `title` (the first line of the document, if it is short)."""

    def streams(self) -> tuple[StreamConfig, ...]:
        return (_distilled(view="split_contexts", **self.model_dump(exclude={"kind"})),)


class DocumentDcdMethod(Settings):
    """Deep context distillation: the student reads the second half of a document, its teacher the whole document."""

    kind: Literal["document_dcd"] = kind("document_dcd")
    temperature: PositiveFloat = 1.0
    """Softmax temperature of teacher and student; above 1 is softer."""

    def streams(self) -> tuple[StreamConfig, ...]:
        return (_distilled(view="halves", temperature=self.temperature),)


class TalrMethod(Settings):
    """Next-token prediction with less weight on tokens that the student finds improbable."""

    kind: Literal["talr"] = kind("talr")
    floor: float = Field(0.01, gt=0, le=1)
    """Minimum weight of a token."""

    def streams(self) -> tuple[StreamConfig, ...]:
        return (_next_token("mixture", talr_floor=self.floor),)


class ReadingMethod(Settings):
    """Reading comprehension (AdaptLLM): each domain document is followed by tasks mined from it."""

    kind: Literal["reading"] = kind("reading")

    def streams(self) -> tuple[StreamConfig, ...]:
        return (_next_token("mixture", form="reading"),)


class PitMethod(Settings):
    """Pre-instruction-tuning: documents followed by their questions, then questions followed by their documents."""

    kind: Literal["pit"] = kind("pit")
    forms: tuple[Form, ...] = Field(("questions_after", "questions_before"), min_length=1)
    """Form of the documents in every phase, in order; all phases are equally long."""

    def streams(self) -> tuple[StreamConfig, ...]:
        return tuple(_next_token(f"phase_{number}", form=form, phase=number) for number, form in enumerate(self.forms))


class StreamsMethod(Settings):
    """Several streams in one training; by default Mix-CPT on the mixture and DiSC on documents."""

    kind: Literal["streams"] = kind("streams")
    of: tuple[StreamConfig, ...] = Field(
        (StreamConfig(), _distilled(view="split_contexts", tokens_fraction=0.5, temperature=2.0)), min_length=1
    )
    """Streams of the training; every optimiser step reads from all streams of the current phase."""

    @model_validator(mode="after")
    def _check(self) -> "StreamsMethod":
        require_unique("stream names", [stream.name for stream in self.of])
        return self

    def streams(self) -> tuple[StreamConfig, ...]:
        return self.of


Method = Annotated[
    CptMethod
    | CptReplayMethod
    | KlMethod
    | LssdMethod
    | NoneMethod
    | MaskMethod
    | MarginMethod
    | DiscMethod
    | DocumentDcdMethod
    | TalrMethod
    | ReadingMethod
    | PitMethod
    | StreamsMethod,
    Field(discriminator="kind"),
]
