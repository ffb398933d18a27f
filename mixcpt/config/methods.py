"""The methods by name: each a preset of streams (METHODS 3), or a list of streams of your own."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mixcpt.config.base import Fraction, PositiveFloat, PositiveInt, Settings, kind
from mixcpt.config.streams import Form, StreamConfig


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
    """Weight of KL(base || student) beside a cross-entropy of weight 1."""
    temperature: PositiveFloat = 1.0
    """Softens teacher and student in the KL term only."""

    def streams(self) -> tuple[StreamConfig, ...]:
        return (StreamConfig(ce_weight=1, kl_weight=self.kl_weight, transform="none", temperature=self.temperature),)


class _Convex(Settings):
    """alpha * CE + (1 - alpha) * KL on the mixture."""

    alpha: Fraction = 0.5
    """Weight of next-token prediction; 1 - alpha goes to the distillation. 1 is plain training."""
    temperature: PositiveFloat = 1.0
    """Softens teacher and student in the distillation term only."""

    def _stream(self, transform: Literal["none", "swap", "mask"]) -> tuple[StreamConfig, ...]:
        return (
            StreamConfig(
                ce_weight=self.alpha, kl_weight=1 - self.alpha, transform=transform, temperature=self.temperature
            ),
        )


class LssdMethod(_Convex):
    """Mix-CPT's logit swap self-distillation: the base model teaches, with its top logit moved to the true token."""

    kind: Literal["lssd"] = kind("lssd")

    def streams(self) -> tuple[StreamConfig, ...]:
        return self._stream("swap")


class NoneMethod(_Convex):
    """Plain self-distillation: the base model's predictions as they are, right or wrong."""

    kind: Literal["none"] = kind("none")

    def streams(self) -> tuple[StreamConfig, ...]:
        return self._stream("none")


class MaskMethod(_Convex):
    """Self-distillation only where the base model's first choice is the true token."""

    kind: Literal["mask"] = kind("mask")

    def streams(self) -> tuple[StreamConfig, ...]:
        return self._stream("mask")


class MarginMethod(Settings):
    """The base model's predictions moved towards the true token by a margin, and nothing else ("minifinetuning")."""

    kind: Literal["margin"] = kind("margin")
    margin: float = Field(0.1, gt=0, lt=1)
    """`share`: probability moved to the true token. `lead`: how far it has to lead the base model's first choice."""
    correction: Literal["share", "lead"] = "share"
    """`share`: the same in every position. `lead`: as much as the position needs (arXiv 2506.15702)."""
    temperature: PositiveFloat = 1.0
    """Softens teacher and student."""

    def streams(self) -> tuple[StreamConfig, ...]:
        transform: Literal["margin", "threshold"] = "margin" if self.correction == "share" else "threshold"
        return (
            StreamConfig(
                ce_weight=0, kl_weight=1, transform=transform, margin=self.margin, temperature=self.temperature
            ),
        )


class DiscMethod(Settings):
    """DiSC: the student, given one sentence, learns what the base model says having read all that stands before it."""

    kind: Literal["disc"] = kind("disc")
    splits: PositiveInt = 5
    """Sentences drawn from each document, the last one always among them."""
    temperature: PositiveFloat = 2.0
    """Softens teacher and student."""
    parity: bool = False
    """The published code's behaviour (sentences tokenised apart, no BOS, first token not scored)."""
    student_context: Literal["none", "title"] = "none"
    """What stands before the student's sentence: nothing, or the document's first line where that is short."""

    def streams(self) -> tuple[StreamConfig, ...]:
        return (
            _distilled(
                view="split_contexts",
                splits=self.splits,
                temperature=self.temperature,
                parity=self.parity,
                student_context=self.student_context,
            ),
        )


class DocumentDcdMethod(Settings):
    """Deep context distillation on documents: the student, given the second half, follows a teacher that read both."""

    kind: Literal["document_dcd"] = kind("document_dcd")
    temperature: PositiveFloat = 1.0
    """Softens teacher and student."""

    def streams(self) -> tuple[StreamConfig, ...]:
        return (_distilled(view="halves", temperature=self.temperature),)


class TalrMethod(Settings):
    """Next-token prediction in which tokens that the student finds improbable count less."""

    kind: Literal["talr"] = kind("talr")
    floor: float = Field(0.01, gt=0, le=1)
    """Least weight of a token."""

    def streams(self) -> tuple[StreamConfig, ...]:
        return (_next_token("mixture", talr_floor=self.floor),)


class ReadingMethod(Settings):
    """Reading comprehension in the manner of AdaptLLM: tasks mined from each domain document are appended to it."""

    kind: Literal["reading"] = kind("reading")

    def streams(self) -> tuple[StreamConfig, ...]:
        return (_next_token("mixture", form="reading"),)


class PitMethod(Settings):
    """Pre-instruction-tuning: documents with their questions, then documents behind their questions."""

    kind: Literal["pit"] = kind("pit")
    forms: tuple[Form, ...] = Field(("questions_after", "questions_before"), min_length=1)
    """The form of each phase, of equal length, in order."""

    def streams(self) -> tuple[StreamConfig, ...]:
        return tuple(_next_token(f"phase_{number}", form=form, phase=number) for number, form in enumerate(self.forms))


class StreamsMethod(Settings):
    """Several streams at once; by default DiSC on documents beside Mix-CPT on the mixture."""

    kind: Literal["streams"] = kind("streams")
    of: tuple[StreamConfig, ...] = Field(
        (
            StreamConfig(),
            StreamConfig(
                name="documents",
                reads="domain",
                view="split_contexts",
                tokens_fraction=0.5,
                ce_weight=0,
                kl_weight=1,
                transform="none",
                temperature=2.0,
            ),
        ),
        min_length=1,
    )
    """The streams; every step reads of all of its phase."""

    @model_validator(mode="after")
    def _check(self) -> "StreamsMethod":
        names = [stream.name for stream in self.of]
        if len(set(names)) < len(names):
            raise ValueError(f"every stream needs a name of its own, found {', '.join(names)}")
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


def _next_token(
    name: str,
    *,
    reads: Literal["mixture", "domain"] = "mixture",
    form: Form = "text",
    phase: int = 0,
    talr_floor: float = 0.0,
) -> StreamConfig:
    """Returns a stream of plain next-token prediction."""
    return StreamConfig(
        name=name,
        reads=reads,
        form=form,
        phase=phase,
        talr_floor=talr_floor,
        ce_weight=1,
        kl_weight=0,
        transform="none",
    )


def _distilled(
    *,
    view: Literal["split_contexts", "halves"],
    temperature: float,
    splits: int = 5,
    parity: bool = False,
    student_context: Literal["none", "title"] = "none",
) -> StreamConfig:
    """Returns a stream of documents in which the teacher knows more than the student, and no label counts."""
    return StreamConfig(
        name="documents",
        reads="domain",
        view=view,
        splits=splits,
        parity=parity,
        student_context=student_context,
        temperature=temperature,
        ce_weight=0,
        kl_weight=1,
        transform="none",
    )
