"""Sources of text (files, Hugging Face datasets, or the embedded closed world) and their curation into documents."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mixcpt.config.base import NAME, Fraction, PositiveInt, Settings, kind, require_unique

Pool = Literal["domain", "general", "instructions", "preferences"]
"""Use of a source: new knowledge, general documents, general instructions, or general preference pairs."""


class FieldNames(Settings):
    """Field names of a record; fields that the source's pool does not use are ignored."""

    text: str = "text"
    """Field with the text of a document (pools domain and general) or of a dialogue (pool instructions)."""
    id: str = "id"
    """Field with the identifier of a record; a record without it is identified by its file and line."""
    prompt: str = "prompt"
    """Field with the instruction, question or request (pools instructions and preferences)."""
    input: str = "input"
    """Field with optional further input, placed below the prompt (pools instructions and preferences)."""
    response: str = "response"
    """Field with the answer to an instruction (pool instructions)."""
    chosen: str = "chosen"
    """Field with the preferred answer (pool preferences)."""
    rejected: str = "rejected"
    """Field with the rejected answer (pool preferences)."""


class SourceSettings(Settings):
    """Settings of every kind of source."""

    name: str = Field(min_length=1, pattern=NAME)
    """Short name of the source in all reports."""
    pool: Pool
    """Use of the source: domain (new knowledge), general (documents for replay), instructions or preferences (general
    samples)."""
    limit: int = Field(0, ge=0)
    """Maximum number of records to read; 0 reads all."""


class FilesSource(SourceSettings):
    """Local files: jsonl, json, parquet, txt or md, optionally gzip-compressed."""

    kind: Literal["files"] = kind("files")
    paths: tuple[str, ...] = Field(min_length=1)
    """Files, folders (searched recursively) or glob patterns, relative to the current folder."""
    fields: FieldNames = FieldNames()
    """Field names of the records."""
    dialogue: Literal["none", "human_assistant"] = "none"
    r"""Dialogue format of the text. `human_assistant` splits `\n\nHuman: ... \n\nAssistant: ...` into the prompt and
    the last answer; preferences have such a dialogue in `chosen` and in `rejected`, instructions in `text`. `none`: no
    splitting."""


class HuggingFaceSource(SourceSettings):
    """A dataset that the `datasets` library loads: a local folder or a hub id."""

    kind: Literal["huggingface"] = kind("huggingface")
    path: str
    """Local folder or hub id of the dataset."""
    subset: str = ""
    """Configuration name of a dataset that has several; empty means its default."""
    split: str = "train"
    """Name of the split to read."""
    revision: str = ""
    """Commit or tag of a dataset on the hub; empty means the newest."""
    fields: FieldNames = FieldNames()
    """Field names of the records."""


class ClosedWorldSource(SourceSettings):
    """The embedded invented world: its domain documents are new to the model that ships with mixcpt."""

    kind: Literal["closed_world"] = kind("closed_world")
    seed: int = 0
    """Seed of the world; the shipped model was trained on the general part of world 0."""
    entities: int = Field(60, ge=10, le=360, multiple_of=2)
    """Number of entities in the domain, each with three facts. Tasks about the domain must use the same number."""
    about: Literal["domain", "updated"] = "domain"
    """Content of the documents: `domain`, or `updated` (news that contradict 60 facts that the shipped model has
    learned; pool domain only)."""
    wordings: PositiveInt = 30
    """Number of documents per entity, each with a different wording (documents only)."""
    notes: bool = True
    """Whether every fact is also stated separately, once in every available sentence. Without notes and with one
    wording, a single text per entity is repeated throughout the training (documents only)."""
    mentions: Literal[1, 2] = Field(1, json_schema_extra={"enum": [1, 2]})
    """Number of times that a document states each of its facts; the second time in different words (documents only)."""


Source = Annotated[FilesSource | HuggingFaceSource | ClosedWorldSource, Field(discriminator="kind")]


class CurationConfig(Settings):
    """Sources of a run, and the steps that clean them."""

    sources: tuple[Source, ...] = Field(
        (
            ClosedWorldSource(name="world-domain", pool="domain"),
            ClosedWorldSource(name="world-instructions", pool="instructions"),
            ClosedWorldSource(name="world-preferences", pool="preferences"),
        )
    )
    """Sources of all text that the run reads; every source names its pool."""
    normalise: bool = True
    """Whether to repair broken Unicode, unify line ends, strip trailing spaces, and drop control characters and
    left-over end-of-text marks."""
    min_characters: int = Field(20, ge=0)
    """Minimum length of a document in the pools domain and general, in characters; 0 keeps documents of any length."""
    deduplicate: bool = True
    """Whether to remove exact duplicates within a pool, after normalisation."""
    heldout_fraction: Fraction = 0.05
    """Share of domain and general documents kept out of training to measure bits per byte; 0 holds out none. They are
    split off before deduplication, so no duplicate of a held-out document is trained on."""
    heldout_instructions: int = Field(0, ge=0)
    """Number of general instructions kept out of training to measure bits per byte of their answers; at most a tenth of
    all instructions. 0 holds out none."""
    max_lost_fraction: Fraction = 0.01
    """Maximum share of a source's characters that the tokenizer of the model may lose; a source that loses more is
    refused before any work. White space, case and Unicode forms are not counted."""

    @model_validator(mode="after")
    def _check(self) -> "CurationConfig":
        require_unique("source names", [source.name for source in self.sources])
        if not any(source.pool == "domain" for source in self.sources):
            raise ValueError("no source has pool: domain, so there is nothing new to learn")
        return self
