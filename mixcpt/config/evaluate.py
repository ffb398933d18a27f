"""Tasks that measure every model, and the prompt form in which it answers them."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mixcpt.config.base import Fraction, PositiveInt, Settings, kind, require_unique

Group = Literal["domain", "general"]
"""Purpose of a task: `domain` measures new knowledge, `general` measures prior knowledge."""

Split = Literal["all", "probe", "selection", "report"]
"""Part of the questions: all, or the part that steers a training, chooses its settings, or is reported."""

SHIPPED_TEXT = "shipped"
"""Path that stands for the general text that comes with mixcpt."""

TASK_NAME = r"^[a-z][a-z0-9_]*$"

WorldForm = Literal["question", "reworded", "reverse", "two_hop", "free_text", "memory"]
"""Form of a question about a fact of the closed world."""


class ClosedWorldTask(Settings):
    """Questions with known answers about the embedded world, answered freely (greedy, exact match)."""

    kind: Literal["closed_world"] = kind("closed_world")
    name: str = Field("domain_questions", pattern=TASK_NAME)
    """Name of the task in all reports."""
    group: Group = "domain"
    """Purpose of the task: domain (new knowledge) or general (prior knowledge)."""
    about: Literal["domain", "general_asked", "general_unasked", "updated"] = "domain"
    """Facts that the questions are about: `domain` (facts of the new domain), `general_asked` (general facts with
    questions in the training data), `general_unasked` (general facts that occur only in documents), or `updated` (facts
    that the news have changed; the new value is correct)."""
    form: WorldForm = "question"
    """Form of the questions. `question`: asks for the fact. `reworded`: asks in words that no instruction uses.
    `reverse`: asks for the entity that has the fact. `two_hop`: describes the entity by another fact instead of naming
    it. `free_text`: asks for all facts about the entity. `memory`: the model completes a sentence of a document."""
    limit: int = Field(0, ge=0)
    """Maximum number of questions; 0 uses all."""
    seed: int = 0
    """Seed of the world."""
    entities: int = Field(60, ge=10, le=360, multiple_of=2)
    """Number of entities in the domain of the world; must equal that of the source."""

    @model_validator(mode="after")
    def _check(self) -> "ClosedWorldTask":
        if self.about == "updated" and self.form in ("reverse", "memory"):
            raise ValueError(f"questions about updated facts have no form {self.form}: choose another form")
        return self


class MultipleChoiceTask(Settings):
    """Questions with keyed choices in a file; the most likely choice is the model's answer."""

    kind: Literal["multiple_choice"] = kind("multiple_choice")
    name: str = Field(pattern=TASK_NAME)
    """Name of the task in all reports."""
    group: Group
    """Purpose of the task: domain (new knowledge) or general (prior knowledge)."""
    path: str
    """Path of a jsonl, json, csv or tsv file, optionally gzip-compressed."""
    question_field: str = "question"
    """Field with the question."""
    passage_field: str = "doc_id"
    """Field with the identifier of the passage that a question is about. Questions about one passage form one cluster
    in the statistics and stay in one split; a record without this field is its own cluster."""
    choices_field: str = "choices"
    """Field with the choices: a list, or an object with one choice per letter. A file without this field can have one
    column per choice instead, such as A, B, C, D or option_a, option_b; these are detected."""
    choice_fields: tuple[str, ...] = ()
    """Columns with one choice each, in the order of the letters; empty means that the columns are detected."""
    answer_field: str = "answer"
    """Field with the correct choice: its letter, its index, or its text."""
    indices_from: Literal["detected", "zero", "one"] = "detected"
    """Number of the first choice, if `answer_field` has an index. `detected`: from 0 if an index of the file is 0, from
    1 if one equals the number of choices; a file with neither is refused."""
    num_fewshot: int = Field(0, ge=0)
    """Number of examples with answers before each question, the same for all questions and splits; 0 shows none. The
    examples, and all other questions about their passages, are never asked."""
    distractor_fields: tuple[str, ...] = ()
    """Fields with one wrong choice each, for files without a list of choices; `answer_field` then contains the correct
    text. Empty means that `choices_field` has the choices."""
    limit: int = Field(0, ge=0)
    """Maximum number of questions, drawn by seed; 0 uses all."""

    @model_validator(mode="after")
    def _check(self) -> "MultipleChoiceTask":
        if self.choice_fields and self.distractor_fields:
            raise ValueError("give choice_fields (all choices) or distractor_fields (the wrong ones), not both")
        if len(self.choice_fields) == 1:
            raise ValueError("choice_fields needs one column per choice, so two or more")
        require_unique("choice_fields", self.choice_fields)
        return self


class BitsPerByteTask(Settings):
    """Bits per byte of a text, or of answers, that the model was not trained on; lower is better."""

    kind: Literal["bits_per_byte"] = kind("bits_per_byte")
    name: str = Field(pattern=TASK_NAME)
    """Name of the task in all reports."""
    group: Group
    """Purpose of the task: domain (new knowledge) or general (prior knowledge)."""
    heldout_pool: Literal["none", "domain", "general", "instructions"] = "none"
    """Pool whose held-out records are measured; `none` if `path` names a file. `instructions`: the answers, each after
    its prompt as plain text; needs `curation.heldout_instructions`."""
    source: str = ""
    """Name of the source whose held-out records are measured; empty means all sources of the pool."""
    path: str = ""
    """Path of a txt or jsonl file (field `text`) to measure; empty if `heldout_pool` names a pool. `shipped` means the
    general text that comes with mixcpt: 60 short English passages on everyday and school subjects."""
    limit: int = Field(200, ge=0)
    """Maximum number of documents or passages; 0 uses all."""
    passage_characters: int = Field(0, ge=0)
    """Minimum length of a passage, in characters, for held-out documents that are measured as several passages of whole
    paragraphs; 0 measures each document as one passage. The interval then describes these documents, not new ones."""

    @model_validator(mode="after")
    def _check(self) -> "BitsPerByteTask":
        if (self.heldout_pool == "none") == (self.path == ""):
            raise ValueError("give exactly one of heldout_pool and path")
        if self.source and self.path:
            raise ValueError("source names a source of heldout_pool and cannot be used with path: remove one")
        if self.path == SHIPPED_TEXT and self.group != "general":
            raise ValueError(
                f"the text that comes with mixcpt is general, so the task {self.name} needs group: general"
            )
        if self.passage_characters and self.heldout_pool not in ("domain", "general"):
            raise ValueError("passage_characters cuts held-out documents: set heldout_pool to domain or general")
        if self.heldout_pool == "instructions" and self.group != "general":
            raise ValueError(f"the instructions are general, so the task {self.name} needs group: general")
        return self


class BenchmarkTask(Settings):
    """Multiple-choice or completion benchmark of lm-eval, asked in its own words and always as plain text."""

    kind: Literal["benchmark"] = kind("benchmark")
    name: str = Field(pattern=TASK_NAME)
    """Name of the task in all reports."""
    benchmark: str = Field(min_length=1)
    """Name of the lm-eval task, e.g. arc_easy; `lm_eval ls tasks` lists them."""
    group: Group = "general"
    """Purpose of the task: domain (new knowledge) or general (prior knowledge)."""
    include_path: str = ""
    """Folder with the YAML of a task of your own; empty means the tasks that come with lm-eval."""
    num_fewshot: int = Field(0, ge=0)
    """Number of examples with answers before each question; 0 shows none."""
    limit: int = Field(300, ge=0)
    """Maximum number of questions, drawn by seed; 0 uses all."""


Task = Annotated[ClosedWorldTask | MultipleChoiceTask | BitsPerByteTask | BenchmarkTask, Field(discriminator="kind")]


class SplitConfig(Settings):
    """Shares of the questions per split, drawn by passage; the remaining questions are reported."""

    probe_fraction: Fraction = 0.2
    """Share of the questions that steers a training with a retention promise; 0 reserves none."""
    selection_fraction: Fraction = 0.3
    """Share of the questions that chooses learning rates, weights and methods; 0 reserves none."""

    @model_validator(mode="after")
    def _check(self) -> "SplitConfig":
        if self.probe_fraction + self.selection_fraction >= 1:
            raise ValueError("probe_fraction + selection_fraction must be below 1, so that some questions are reported")
        return self


class EvaluateConfig(Settings):
    """Tasks, their prompt form, and the confidence of the results."""

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
        )
    )
    """Tasks that measure every model."""
    headline_domain: str = "domain_questions"
    """Name of the task that represents new knowledge in the report's figure and last line."""
    headline_general: str = "general_questions_unasked"
    """Name of the general task that represents prior knowledge in the report's figure and last line; empty means that
    forgetting is not measured."""
    split: Split = "all"
    """Part of the questions that is used: all, probe, selection or report. Questions that chose a setting cannot report
    its result: choose settings on `selection` and report results on `report`."""
    splits: SplitConfig = SplitConfig()
    """Shares of the questions in each split."""
    aligned_form: Literal["chat", "plain"] = "chat"
    """Prompt form of the final model: `chat` (its chat template) or `plain` (plain text). The base and the pre-trained
    model always get plain text."""
    kl_to_base: bool = True
    """Whether to also measure the KL divergence between the model's and the base's predictions, on the questions and on
    general texts; keeps both models in memory."""
    open_book: bool = True
    """Whether to also ask the base with the document in its prompt, before training. The result shows whether prompting
    or retrieval would be enough."""
    batch_size: PositiveInt = 64
    """Prompts per forward pass."""
    confidence: Fraction = 0.95
    """Confidence level of all intervals."""
    num_resamples: PositiveInt = 2000
    """Number of bootstrap resamples for each interval."""
    num_examples: int = Field(10, ge=0)
    """Number of answers before and after training shown in the report; 0 shows none."""

    @property
    def has_open_book(self) -> bool:
        """Whether the base is asked with the document in its prompt: needs `open_book` and domain questions."""
        return self.open_book and any(task.group == "domain" and is_question(task) for task in self.tasks)

    @model_validator(mode="after")
    def _check(self) -> "EvaluateConfig":
        names = [task.name for task in self.tasks]
        require_unique("task names", names)
        for role, name in (("headline_domain", self.headline_domain), ("headline_general", self.headline_general)):
            if name not in names and (name or role == "headline_domain"):
                raise ValueError(f"{role} is {name!r}, which is none of the tasks: {', '.join(names)}")
        return self


def headline_problems(config: EvaluateConfig) -> Iterator[str]:
    """Yield one message for each headline task of the wrong group.

    Settings of earlier versions may have such headlines, so only new settings are checked.
    """
    groups = {task.name: task.group for task in config.tasks}
    if groups.get(config.headline_general) == "domain":
        general = [name for name, group in groups.items() if group == "general"]
        choice = f"name one of {', '.join(general)}" if general else "add a task with group: general and name it"
        yield (
            f"headline_general is {config.headline_general}, a task of the domain, which measures no forgetting: "
            f'{choice}, or set headline_general: "" to measure no forgetting'
        )
    if groups.get(config.headline_domain) == "general":
        yield (
            f"headline_domain is {config.headline_domain}, a general task, which measures no new knowledge: "
            "name a task with group: domain"
        )


def is_question(task: Task) -> bool:
    """Return whether a task asks questions and so can use a chat form; completing or scoring a text cannot."""
    return isinstance(task, MultipleChoiceTask) or (isinstance(task, ClosedWorldTask) and task.form != "memory")


def has_one_answer(task: Task) -> bool:
    """Return whether the correct answer is a single text, whose probability a model can give."""
    return not isinstance(task, BitsPerByteTask) and not (
        isinstance(task, ClosedWorldTask) and task.form == "free_text"
    )
