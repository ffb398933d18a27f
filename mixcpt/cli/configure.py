"""`mixcpt init` and `mixcpt validate`: a configuration to start from, and whether one would work."""

from pathlib import Path
from typing import Annotated

import typer

from mixcpt.cli.console import Overrides, err, explain_errors, out
from mixcpt.config import (
    AdaptConfig,
    AdviseConfig,
    AlignConfig,
    BaseModelConfig,
    BitsPerByteTask,
    CompareConfig,
    CorpusConfig,
    CptMethod,
    CurationConfig,
    EvaluateConfig,
    FilesSource,
    MixtureConfig,
    PoolWeights,
    PretrainConfig,
    ReadaptConfig,
    SelectionConfig,
    Settings,
    load_any,
)
from mixcpt.config.writing import to_yaml
from mixcpt.errors import ConfigError
from mixcpt.planning.preflight import preflight, preflight_corpus
from mixcpt.store.models import resolve_model

PathList = list[str] | None
_ROW_TOKENS = 512
"""Length of text that a starter configuration trains on, where the model can read as much."""


@explain_errors
def init(
    path: Annotated[Path, typer.Argument(help="The YAML file to write.")] = Path("mixcpt.yaml"),
    documents: Annotated[PathList, typer.Option(help="Domain documents: file, folder or glob; repeatable.")] = None,
    instructions: Annotated[
        PathList, typer.Option(help="General instructions with fields prompt and response.")
    ] = None,
    preferences: Annotated[PathList, typer.Option(help="General pairs with prompt, chosen and rejected.")] = None,
    model: Annotated[str, typer.Option(help="Model folder or hub id.")] = "",
    reference: Annotated[
        bool, typer.Option("--reference", help="Write every setting with its default and help.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a configuration to start from, each setting explained.

    Without options: the closed-world demo. With --documents and --model: your own run. The general
    instructions are what keeps the model's other abilities alive: without any, all that is left is
    plain continual pre-training, which forgets.
    """
    if path.exists() and not force:
        raise ConfigError(f"{path} exists already", "choose another name, or --force to overwrite it")
    if not documents:
        config, only_set = AdaptConfig(), False
    else:
        config = _own_run(path.stem, documents, instructions or [], preferences or [], model)
        only_set = not reference
    path.write_text(to_yaml(config, only_set=only_set), encoding="utf-8")
    out.print(f"wrote {path}; next: mixcpt validate {path}", markup=False, highlight=False)


@explain_errors
def validate(
    path: Annotated[Path, typer.Argument(help="The YAML file to check.")],
    overrides: Overrides = None,
) -> None:
    """Report every problem of a configuration, with file and key path, before any work starts.

    Checks keys, types and ranges, that sources and benchmarks are there, that the model can be loaded,
    that its tokenizer fits and that it has a chat form. Exit code 0 means that a run can start. Takes the
    files of runs, and those of rounds, corpora, comparisons and searches too.
    """
    config = load_any(path, overrides or ())
    out.print(f"{path} is valid: {_checked(config)}", markup=False, highlight=False, soft_wrap=True)


def _checked(config: Settings) -> str:
    """Returns in words what a configuration would do, after checking it."""
    match config:
        case CorpusConfig():
            preflight_corpus(config)
            return f"the corpus {config.name}, asked by {len(config.tasks)} task{'' if len(config.tasks) == 1 else 's'}"
        case CompareConfig():
            return f"{config.name} compares {len(config.contenders)} contenders on {_checked_base(config.first)}"
        case AdviseConfig():
            return f"{config.name} searches in {config.num_trials} trainings of {_checked_base(config.given)}"
        case ReadaptConfig():
            return f"{config.name} re-adapts, in rounds, {_checked_base(config.adapt)}"
        case AdaptConfig():
            return f"{config.name} adapts {_checked_base(config)}"
    raise TypeError(type(config).__name__)


def _checked_base(config: AdaptConfig) -> str:
    base = preflight(config)
    return f"{base.name} ({base.digest[:12]})"


def _own_run(
    name: str, documents: list[str], instructions: list[str], preferences: list[str], model: str
) -> AdaptConfig:
    """Returns settings for a user's own files, complete enough to run."""
    if not model:
        raise ConfigError("--documents needs --model", "name the model to adapt: a folder or a hub id")
    paths = {"domain": documents, "instructions": instructions, "preferences": preferences}
    sources = [FilesSource(name=pool, pool=pool, paths=tuple(given)) for pool, given in paths.items() if given]
    if not instructions and not preferences:
        err.print(
            "no general instructions: the run will be plain continual pre-training, which forgets", style="yellow"
        )
    return AdaptConfig(
        name=name,
        base=BaseModelConfig(model=model, chat_template=""),
        curation=CurationConfig(sources=tuple(sources)),
        mixture=MixtureConfig(
            weights=PoolWeights(
                domain=0.5, instructions=0.4 * bool(instructions), preferences=0.1 * bool(preferences), general=0.0
            ),
            total_tokens=2_000_000,
            row_tokens=_row_tokens(model),
        ),
        pretrain=PretrainConfig() if instructions or preferences else PretrainConfig(method=CptMethod()),
        align=AlignConfig(
            selection=SelectionConfig(
                num_instructions=200 * bool(instructions),
                num_preferences=100 * bool(preferences),
            ),
        ),
        evaluate=EvaluateConfig(
            tasks=(BitsPerByteTask(name="domain_bits_per_byte", group="domain", heldout_pool="domain"),),
            headline_domain="domain_bits_per_byte",
            headline_general="domain_bits_per_byte",
        ),
    )


def _row_tokens(model: str) -> int:
    """Returns the length of a row that the model can read; a model on the hub is not fetched just to ask it."""
    longest = resolve_model(BaseModelConfig(model=model)).max_tokens if Path(model).expanduser().is_dir() else 0
    return min(_ROW_TOKENS, longest) if longest else _ROW_TOKENS
