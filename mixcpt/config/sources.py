"""Where text comes from: files, Hugging Face datasets, or the embedded closed world."""

from typing import Annotated, Literal

from pydantic import Field

from mixcpt.config.base import PositiveInt, Settings, kind

Pool = Literal["domain", "general", "instructions", "preferences"]
"""What a source is for: new knowledge, general documents, general instructions, general preference pairs."""


class FieldNames(Settings):
    """Which field of a record holds what; only those of the source's pool are read."""

    text: str = "text"
    """Document text (pools domain and general)."""
    id: str = "id"
    """Identifier of the record; its file and line where it has none."""
    prompt: str = "prompt"
    """Instruction, question or request."""
    input: str = "input"
    """Optional further input, put below the prompt where the record has it."""
    response: str = "response"
    """Answer to an instruction."""
    chosen: str = "chosen"
    """Preferred answer."""
    rejected: str = "rejected"
    """Rejected answer."""


class SourceSettings(Settings):
    """What all kinds of source have."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Short name under which the source is counted in every report."""
    pool: Pool
    """What the source is for."""
    limit: int = Field(0, ge=0)
    """Read at most this many records; 0 reads all."""


class FilesSource(SourceSettings):
    """Local files: jsonl, json, parquet, txt, md, each also gzip-compressed."""

    kind: Literal["files"] = kind("files")
    paths: tuple[str, ...] = Field(min_length=1)
    """Files, folders (searched through) or globs, relative to the current folder."""
    fields: FieldNames = FieldNames()
    """Names of the fields in the records."""
    dialogue: Literal["none", "human_assistant"] = "none"
    r"""`human_assistant` splits `\n\nHuman: ... \n\nAssistant: ...` dialogues into prompt and last answer.
    Preferences hold one in `chosen` and one in `rejected`, instructions one in `text`."""


class HuggingFaceSource(SourceSettings):
    """A dataset that the `datasets` library loads: a local folder or a hub id."""

    kind: Literal["huggingface"] = kind("huggingface")
    path: str
    """Local folder or hub id."""
    subset: str = ""
    """Configuration of the dataset, where it has several."""
    split: str = "train"
    """Which split to read."""
    revision: str = ""
    """Commit or tag on the hub."""
    fields: FieldNames = FieldNames()
    """Names of the fields in the records."""


class ClosedWorldSource(SourceSettings):
    """The embedded invented world: its domain documents are new to the model that ships with mixcpt."""

    kind: Literal["closed_world"] = kind("closed_world")
    seed: int = 0
    """Seed of the world; the shipped model knows the general part of world 0."""
    entities: int = Field(60, ge=10, le=360, multiple_of=2)
    """How many entities the domain has; each has three facts. Tasks about the domain have to say the same."""
    about: Literal["domain", "updated"] = "domain"
    """`updated`: instead of the domain, news that contradict 60 facts which the shipped model knows (pool domain)."""
    wordings: PositiveInt = 30
    """Documents per entity, each in another wording (documents only)."""
    notes: bool = True
    """Also state every fact by itself, in every sentence that there is for it. Without notes and with one wording all
    that is ever read of an entity is one text, again and again (documents only)."""
    mentions: Literal[1, 2] = Field(1, json_schema_extra={"enum": [1, 2]})
    """How often a document states each of its facts; the second time in other words (documents only)."""


Source = Annotated[FilesSource | HuggingFaceSource | ClosedWorldSource, Field(discriminator="kind")]
