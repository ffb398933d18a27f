"""Rewriting: texts in other forms that a model makes of the documents of the domain."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mixcpt.config.base import Fraction, PositiveFloat, PositiveInt, Settings, kind, require_unique


class BaseGenerator(Settings):
    """The base model of the run itself."""

    kind: Literal["base"] = kind("base")
    batch_texts: PositiveInt = 32
    """Number of texts that are generated at once."""


class ModelGenerator(Settings):
    """Another local model, or one from the Hugging Face hub."""

    kind: Literal["model"] = kind("model")
    model: str = Field(min_length=1)
    """Local folder or hub id of the model."""
    revision: str = ""
    """Commit or tag of a hub model; empty means the newest."""
    batch_texts: PositiveInt = 16
    """Number of texts that are generated at once."""


class EndpointGenerator(Settings):
    """A server with the chat interface of OpenAI: vLLM, SGLang, llama.cpp, `transformers serve`, or a hosted one."""

    kind: Literal["endpoint"] = kind("endpoint")
    url: str = Field(pattern=r"^https?://")
    """Address of the interface, such as `http://127.0.0.1:8000/v1`."""
    model: str = Field(min_length=1)
    """Name of the model on the server."""
    key_variable: str = Field("", pattern=r"^[A-Za-z_]*[A-Za-z0-9_]*$")
    """Environment variable with the key of the server; empty if it needs none. The key is never recorded."""
    concurrency: PositiveInt = 8
    """Number of requests at once."""
    timeout_seconds: PositiveFloat = 300.0
    """Time after which a request without an answer is repeated."""
    attempts: PositiveInt = 6
    """Number of attempts for a request that the server refuses for now (status 429 or 5xx) or does not answer."""
    price_per_million_read: float = Field(0.0, ge=0)
    """Price of a million prompt tokens, in any currency."""
    price_per_million_written: float = Field(0.0, ge=0)
    """Price of a million generated tokens, in the same currency."""


class FilesGenerator(Settings):
    """Texts that were made elsewhere."""

    kind: Literal["files"] = kind("files")
    paths: tuple[str, ...] = Field(min_length=1)
    """Files of JSON lines with `document` (id of a document), `form` and `text`, relative to the current folder."""


Generator = Annotated[BaseGenerator | ModelGenerator | EndpointGenerator | FilesGenerator, Field(discriminator="kind")]


class FaithfulnessConfig(Settings):
    """Checks that every generated text must pass before it can be trained on."""

    judge: Literal["generator", "none"] = Field("generator", json_schema_extra={"enum": ["generator", "none"]})
    """Model that reads passage and statement, and decides whether the passage supports it: the generator, or none."""
    judge_form: str = "judge"
    """Prompt of the judge: the name of a shipped form, or the path of a YAML file."""
    max_copied_fraction: Fraction = 0.9
    """Maximum share of a text's five-word sequences that the passage contains word for word; above it, the text teaches
    nothing that the passage does not."""
    max_repeated_fraction: Fraction = 0.9
    """Maximum share of a text's five-word sequences that one earlier text about the same passage contains."""


class RewriteConfig(Settings):
    """Texts in several forms about every document of the domain, made by a model and checked against the document."""

    forms: tuple[str, ...] = ()
    """Forms of the texts: names of shipped forms, or paths of YAML files; empty writes no texts. `mixcpt forms` lists
    the shipped ones."""
    amount: PositiveFloat = 1.0
    """Generated text per document text, by length."""
    generator: Generator = BaseGenerator()
    """Model, server or files that the texts come from."""
    temperature: float = Field(0.8, ge=0, le=2)
    """Sampling temperature; 0 always takes the most likely token, which makes texts of one form and passage equal."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Share of the probability that sampling chooses from, most likely tokens first."""
    passage_characters: int = Field(3_000, ge=200)
    """Length of a passage; longer documents are cut into passages at the ends of sentences."""
    overlap_characters: int = Field(300, ge=0)
    """Text at the end of a passage that the next passage begins with."""
    faithfulness: FaithfulnessConfig = FaithfulnessConfig()
    """Checks of the texts."""

    @model_validator(mode="after")
    def _check(self) -> "RewriteConfig":
        require_unique("rewrite.forms", self.forms)
        if self.overlap_characters * 2 > self.passage_characters:
            raise ValueError("overlap_characters must be at most half of passage_characters")
        return self
