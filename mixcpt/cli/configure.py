"""`mixcpt init` and `mixcpt validate`: write a configuration, check a configuration."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mixcpt.checks.preflight import preflight, preflight_corpus
from mixcpt.cli.console import Overrides, explain_errors, print_line, print_note, print_warnings
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
from mixcpt.store.models import resolve_model

PathList = list[str] | None
_ROW_TOKENS = 512
"""Row length of a starter configuration; shorter if the model's context is."""


@explain_errors
def init(
    path: Annotated[Path, Argument(help="YAML file to write.")] = Path("mixcpt.yaml"),
    documents: Annotated[PathList, Option(help="Domain documents: a file, folder or glob; repeatable.")] = None,
    instructions: Annotated[
        PathList, Option(help="General instructions (jsonl: prompt, response); repeatable.")
    ] = None,
    preferences: Annotated[
        PathList, Option(help="General preferences (jsonl: prompt, chosen, rejected); repeatable.")
    ] = None,
    model: Annotated[str, Option(help="Model to adapt: a folder or a hub id (owner/model).")] = "",
    reference: Annotated[bool, Option("--reference", help="Write all settings, with default and explanation.")] = False,
    force: Annotated[bool, Option("--force", help="Overwrite an existing file.")] = False,
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
    print_line(f"wrote {path}; next: mixcpt validate {path}")


@explain_errors
def validate(path: Annotated[Path, Argument(help="YAML file to check.")], overrides: Overrides = None) -> None:
    """Check a configuration and report every problem with its file and key, before any work starts.

    It checks keys, types and ranges, that sources and benchmarks exist, that the model can be loaded, that its
    tokenizer fits, and that it has a chat template. Exit code 0 means that a run can start. The file can describe a
    run, rounds, a corpus, a comparison or a search.

    ```
    mixcpt validate my.yaml --set mixture.total_tokens=100000
    ```
    """
    config = load_any(path, overrides or ())
    print_line(f"{path} is valid: {_checked(config)}")


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
    checked = preflight(config)
    print_warnings(checked)
    base = checked.base
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
        problem = "no general instructions: the run is plain continual pre-training, which forgets prior knowledge"
        print_note(problem, style="yellow")
    weights = PoolWeights(
        domain=0.5, instructions=0.4 * bool(instructions), preferences=0.1 * bool(preferences), general=0.0
    )
    selection = SelectionConfig(num_instructions=200 * bool(instructions), num_preferences=100 * bool(preferences))
    bits = BitsPerByteTask(name="domain_bits_per_byte", group="domain", heldout_pool="domain")
    return AdaptConfig(
        name=name,
        base=BaseModelConfig(model=model, chat_template=""),
        curation=CurationConfig(sources=tuple(sources)),
        mixture=MixtureConfig(weights=weights, total_tokens=2_000_000, row_tokens=_row_tokens(model)),
        pretrain=PretrainConfig() if instructions or preferences else PretrainConfig(method=CptMethod()),
        align=AlignConfig(selection=selection),
        evaluate=EvaluateConfig(tasks=(bits,), headline_domain=bits.name, headline_general=bits.name),
    )


def _row_tokens(model: str) -> int:
    """Return a row length that fits the model's context; the context of a model on the hub is not looked up."""
    context = resolve_model(BaseModelConfig(model=model)).max_tokens if Path(model).expanduser().is_dir() else 0
    return min(_ROW_TOKENS, context) if context else _ROW_TOKENS
