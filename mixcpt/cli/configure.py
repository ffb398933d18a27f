"""`mixcpt init` and `mixcpt validate`: write a configuration, check a configuration."""

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
"""Row length of a starter configuration; shorter if the model's context is."""


@explain_errors
def init(
    path: Annotated[Path, typer.Argument(help="YAML file to write.")] = Path("mixcpt.yaml"),
    documents: Annotated[PathList, typer.Option(help="Domain documents: a file, folder or glob; repeatable.")] = None,
    instructions: Annotated[
        PathList,
        typer.Option(help="General instructions: jsonl with prompt and response; repeatable."),
    ] = None,
    preferences: Annotated[
        PathList,
        typer.Option(help="General preferences: jsonl with prompt, chosen and rejected; repeatable."),
    ] = None,
    model: Annotated[str, typer.Option(help="Model to adapt: a folder or a hub id (owner/model).")] = "",
    reference: Annotated[
        bool, typer.Option("--reference", help="Write every setting with its default and an explanation.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a configuration that explains its settings.

    With `--documents` and `--model` it is a run on your own files; without them it is the closed-world demo.
    General instructions protect the model's other abilities. Without any, the run is plain continual pre-training,
    which forgets prior knowledge.

    ```
    mixcpt init my.yaml --documents ./docs --instructions general.jsonl --model ./model
    ```
    """
    if path.exists() and not force:
        raise ConfigError(f"{path} exists already", "choose another name, or overwrite it with --force")
    if not documents:
        config, only_set = AdaptConfig(), False
    else:
        config = _own_run(path.stem, documents, instructions or [], preferences or [], model)
        only_set = not reference
    path.write_text(to_yaml(config, only_set=only_set), encoding="utf-8")
    out.print(f"wrote {path}; next: mixcpt validate {path}", markup=False, highlight=False)


@explain_errors
def validate(
    path: Annotated[Path, typer.Argument(help="YAML file to check.")],
    overrides: Overrides = None,
) -> None:
    """Check a configuration and report every problem with its file and key, before any work starts.

    It checks keys, types and ranges, that sources and benchmarks exist, that the model can be loaded, that its
    tokenizer fits, and that it has a chat template. Exit code 0 means that a run can start. The file can describe a
    run, rounds, a corpus, a comparison or a search.

    ```
    mixcpt validate my.yaml --set mixture.total_tokens=100000
    ```
    """
    config = load_any(path, overrides or ())
    out.print(f"{path} is valid: {_checked(config)}", markup=False, highlight=False, soft_wrap=True)


def _checked(config: Settings) -> str:
    """Check a configuration and return one sentence about it, or raise its problems."""
    match config:
        case CorpusConfig():
            preflight_corpus(config)
            return f"the corpus {config.name} with {len(config.tasks)} task{'' if len(config.tasks) == 1 else 's'}"
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
    """Make settings for a user's own files that can run without further edits."""
    if not model:
        raise ConfigError("--documents needs --model", "name the model to adapt with --model: a folder or a hub id")
    paths = {"domain": documents, "instructions": instructions, "preferences": preferences}
    sources = [FilesSource(name=pool, pool=pool, paths=tuple(files)) for pool, files in paths.items() if files]
    if not instructions and not preferences:
        err.print(
            "no general instructions: the run is plain continual pre-training, which forgets prior knowledge",
            style="yellow",
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
    """Return a row length that fits the model's context; the context of a model on the hub is not looked up."""
    context = resolve_model(BaseModelConfig(model=model)).max_tokens if Path(model).expanduser().is_dir() else 0
    return min(_ROW_TOKENS, context) if context else _ROW_TOKENS
