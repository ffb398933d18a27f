"""What is asked of every model: before, after, in its own prompt form."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mixcpt.config.base import Fraction, PositiveInt, Settings, kind

Group = Literal["domain", "general"]
"""Whether a task measures what should be learned or what should be kept."""

Split = Literal["all", "probe", "selection", "report"]
"""Which questions are asked: all, or those that steer a training, choose its settings, or are reported."""

TASK_NAME = r"^[a-z][a-z0-9_]*$"


WorldForm = Literal["question", "reworded", "reverse", "two_hop", "free_text", "memory"]
"""The ways of asking for a fact of the closed world."""


class ClosedWorldTask(Settings):
    """Questions with known answers about the embedded world, answered freely (greedy, exact match)."""

    kind: Literal["closed_world"] = kind("closed_world")
    name: str = Field("domain_questions", pattern=TASK_NAME)
    """Name of the task in every report."""
    group: Group = "domain"
    """What the task measures."""
    about: Literal["domain", "general_asked", "general_unasked", "updated"] = "domain"
    """Facts of the new domain; general facts asked in training; general facts that were never asked, only read; or
    those that news have changed, where the new value is right."""
    form: WorldForm = "question"
    """`question` asks for the fact, `reworded` in words that no instruction uses, `reverse` for the entity that has it,
    `two_hop` for a fact of an entity that is not named but told by another fact, `free_text` for all that is known of
    the entity; `memory` has the model go on with a sentence of a document."""
    limit: int = Field(0, ge=0)
    """Ask at most this many; 0 asks all."""
    seed: int = 0
    """Seed of the world."""
    entities: int = Field(60, ge=10, le=360, multiple_of=2)
    """How many entities its domain has."""

    @model_validator(mode="after")
    def _check(self) -> "ClosedWorldTask":
        if self.about == "updated" and self.form in ("reverse", "memory"):
            raise ValueError(f"news can be asked for, but not in the form {self.form}")
        return self


class MultipleChoiceTask(Settings):
    """Questions with keyed choices in a jsonl file; the most likely choice counts."""

    kind: Literal["multiple_choice"] = kind("multiple_choice")
    name: str = Field(pattern=TASK_NAME)
    """Name of the task in every report."""
    group: Group
    """What the task measures."""
    path: str
    """A jsonl file, may be gzip-compressed."""
    question_field: str = "question"
    """Field with the question."""
    passage_field: str = "doc_id"
    """Field that names what the question is about: questions about one passage are counted together, and are all in
    one split. A record without it counts by itself."""
    choices_field: str = "choices"
    """Field with the list of choices."""
    answer_field: str = "answer"
    """Field with the right choice: its index, its letter, or its text."""
    num_fewshot: int = Field(0, ge=0)
    """Examples with their answers before each question, the same for every question and for any split; what serves as
    an example, and whatever else is about its passage, is never asked."""
    distractor_fields: tuple[str, ...] = ()
    """Fields with one wrong choice each, for files without a list; answer_field then holds the right text."""
    limit: int = Field(0, ge=0)
    """Ask at most this many, drawn by seed; 0 asks all."""


class BitsPerByteTask(Settings):
    """How well the model predicts a text that it was not trained on, in bits per byte: lower is better."""

    kind: Literal["bits_per_byte"] = kind("bits_per_byte")
    name: str = Field(pattern=TASK_NAME)
    """Name of the task in every report."""
    group: Group
    """What the task measures."""
    heldout_pool: Literal["none", "domain", "general"] = "none"
    """Measure on what curation held out of this pool."""
    source: str = ""
    """Only of the source with this name; empty takes all of the pool."""
    path: str = ""
    """Or measure on this txt or jsonl file (field `text`)."""
    limit: int = Field(200, ge=0)
    """At most this many documents; 0 takes all."""

    @model_validator(mode="after")
    def _check(self) -> "BitsPerByteTask":
        if (self.heldout_pool == "none") == (self.path == ""):
            raise ValueError("give either heldout_pool or path, not both and not none")
        if self.source and self.path:
            raise ValueError("source names a source of heldout_pool: it does not go with path")
        return self


Task = Annotated[ClosedWorldTask | MultipleChoiceTask | BitsPerByteTask, Field(discriminator="kind")]


class SplitConfig(Settings):
    """How questions are shared out, by the passage that they are about; the rest is reported."""

    probe_fraction: Fraction = 0.2
    """Steers a training that has to keep a promise."""
    selection_fraction: Fraction = 0.3
    """Chooses learning rates, weights and methods."""

    @model_validator(mode="after")
    def _check(self) -> "SplitConfig":
        if self.probe_fraction + self.selection_fraction >= 1:
            raise ValueError("probe_fraction + selection_fraction must be below 1, so that something is reported")
        return self


class EvaluateConfig(Settings):
    """Tasks, their prompt form, and how sure we want to be."""

    tasks: tuple[Task, ...] = Field(
        (
            ClosedWorldTask(),
            ClosedWorldTask(name="domain_reworded", form="reworded"),
            ClosedWorldTask(name="domain_reverse", form="reverse"),
            ClosedWorldTask(name="domain_two_hop", form="two_hop"),
            ClosedWorldTask(name="domain_free_text", form="free_text", limit=60),
            ClosedWorldTask(name="domain_memory", form="memory"),
            ClosedWorldTask(name="general_questions_asked", group="general", about="general_asked", limit=300),
            ClosedWorldTask(name="general_questions_unasked", group="general", about="general_unasked", limit=300),
            ClosedWorldTask(name="general_memory", group="general", about="general_unasked", form="memory", limit=300),
            BitsPerByteTask(name="domain_bits_per_byte", group="domain", heldout_pool="domain"),
        ),
    )
    """What is measured."""

    headline_domain: str = "domain_questions"
    """The task that stands for what was learned, in the picture and the last line."""
    headline_general: str = "general_questions_unasked"
    """The task that stands for what was kept."""

    split: Split = "all"
    """Which questions are asked. Those that chose a setting cannot report it: choose on `selection`, show `report`."""
    splits: SplitConfig = SplitConfig()
    """How they are shared out."""

    aligned_form: Literal["chat", "plain"] = "chat"
    """How the final model is asked: through its chat template, or as plain text.
    Base and the model between are always asked in plain text."""

    kl_to_base: bool = True
    """Also measure how far the model's predictions on the questions are from the base's; needs both in memory."""
    open_book: bool = True
    """Also ask the base with the document at hand, before training: does prompting or retrieval do as well already?"""

    batch_size: PositiveInt = 64
    """Prompts per forward."""
    confidence: Fraction = 0.95
    """Level of the intervals."""
    num_resamples: PositiveInt = 2000
    """Bootstrap resamples behind each interval."""
    num_examples: int = Field(10, ge=0)
    """Answers shown before and after in the report."""

    @property
    def has_open_book(self) -> bool:
        """Whether the base is asked with the documents at hand: there have to be questions about them."""
        questions = [task for task in self.tasks if task.group == "domain" and is_question(task)]
        return self.open_book and bool(questions)

    @model_validator(mode="after")
    def _check(self) -> "EvaluateConfig":
        names = [task.name for task in self.tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"task names must differ; given twice: {', '.join(twice)}")
        for role, name in (("headline_domain", self.headline_domain), ("headline_general", self.headline_general)):
            if name not in names:
                raise ValueError(f"{role} is {name!r}, which is none of the tasks: {', '.join(names)}")
        return self


def is_question(task: Task) -> bool:
    """Returns whether a task asks, and so can have a chat form: a text, or a sentence to go on with, does not."""
    return isinstance(task, MultipleChoiceTask) or (isinstance(task, ClosedWorldTask) and task.form != "memory")


def has_one_answer(task: Task) -> bool:
    """Returns whether the right answer is one text, so that a model can say how likely it is; a free text is not."""
    return not isinstance(task, BitsPerByteTask) and not (
        isinstance(task, ClosedWorldTask) and task.form == "free_text"
    )
