"""`mixcpt init` and `mixcpt validate`: write a configuration, check a configuration."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from mixcpt.cli.console import Overrides, checked, explain_errors, print_line, print_note
from mixcpt.config import (
    AdaptConfig,
    AdviseConfig,
    CompareConfig,
    CorpusConfig,
    ReadaptConfig,
    Settings,
    load_any,
)
from mixcpt.config.writing import to_yaml
from mixcpt.errors import ConfigError

if TYPE_CHECKING:
    from mixcpt.cli.starter import Wanted

PathList = list[str] | None
_REASONS = "# Lines with -> give the reason for a value that `mixcpt init` chose for this model, device and text."


@explain_errors
def init(
    path: Annotated[Path, Argument(help="YAML file to write.")] = Path("mixcpt.yaml"),
    documents: Annotated[PathList, Option(help="Domain documents: a file, folder or glob; repeatable.")] = None,
    instructions: Annotated[
        PathList, Option(help="General instructions: records with a prompt and a response; repeatable.")
    ] = None,
    preferences: Annotated[
        PathList, Option(help="General preferences: records with a prompt, chosen and rejected answer; repeatable.")
    ] = None,
    model: Annotated[str, Option(help="Model to adapt: a folder or a hub id (owner/model).")] = "",
    questions: Annotated[
        list[Path] | None,
        Option(help="Multiple-choice questions about the documents: jsonl, json, csv or tsv; repeatable."),
    ] = None,
    benchmark: Annotated[
        PathList, Option(metavar="NAME", help="Benchmark of lm-eval to measure prior knowledge, e.g. sciq; repeatable.")
    ] = None,
    device: Annotated[
        str, Option(help="Device of the training: cpu or a name that `mixcpt plan --device` knows. Default: detected.")
    ] = "",
    for_compare: Annotated[
        bool, Option("--compare", help="Write a comparison with the traditional chain, for `mixcpt compare`.")
    ] = False,
    for_advise: Annotated[
        bool, Option("--advise", help="Write a search for the mixture, for `mixcpt advise`.")
    ] = False,
    store: Annotated[str, Option(help="Folder of the artifact store, written into the file.")] = "",
    reference: Annotated[bool, Option("--reference", help="Write all settings, with default and explanation.")] = False,
    force: Annotated[bool, Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a configuration that explains its settings.

    With `--documents` and `--model` it is a run on your own files: learning rate, trained parameters, precision, batch
    and length follow the size of the model, the device and the amount of text, and the file gives the reason for each.
    Without them it is the closed-world demo. General instructions protect the model's other abilities. Without any,
    the run is plain continual pre-training, which forgets prior knowledge.

    ```
    mixcpt init my.yaml --documents ./docs --instructions general.jsonl --model ./model
    ```
    """
    from mixcpt.cli.starter import Wanted

    if path.exists() and not force:
        raise ConfigError(f"{path} exists already", "choose another name, or overwrite it with --force")
    if for_compare and for_advise:
        raise ConfigError("--compare and --advise write different files", "give one of the two")
    wanted = Wanted(
        name=path.stem,
        model=model,
        documents=documents or (),
        instructions=instructions or (),
        preferences=preferences or (),
        questions=questions or (),
        benchmarks=benchmark or (),
        device=device,
        store=store,
    )
    command = "compare" if for_compare else "advise" if for_advise else "run"
    if documents:
        text = _own_settings(wanted, command, only_set=not reference)
    else:
        _require_no_files(wanted, command)
        runtime = {"runtime": {"store": store}} if store else {}
        text = to_yaml(AdaptConfig.model_validate(runtime))
    _write(path, f"{_REASONS}\n{text}" if documents else text)
    print_line(f"wrote {path}; next: mixcpt validate {path}, then mixcpt {command} {path}")


def _own_settings(wanted: "Wanted", command: str, *, only_set: bool) -> str:
    """Return the YAML of a run, a comparison or a search on the user's own files."""
    from mixcpt.cli.starter import starter
    from mixcpt.cli.studies import comparison_yaml, search_yaml

    if not wanted.model:
        raise ConfigError("--documents needs --model", "name the model to adapt with --model: a folder or a hub id")
    begun = starter(wanted)
    if not wanted.instructions and not wanted.preferences:
        problem = "no general instructions: the run is plain continual pre-training, which forgets prior knowledge"
        print_note(f"{problem}; add some with --instructions FILE", style="yellow")
    for note in begun.notes:
        print_note(note)
    if command == "compare":
        return comparison_yaml(begun)
    if command == "advise":
        return search_yaml(begun)
    return to_yaml(begun.config, only_set=only_set, reasons=begun.reasons)


def _require_no_files(wanted: "Wanted", command: str) -> None:
    """Raise `ConfigError` if the user gave files or a model but no documents."""
    given = [name for name in ("model", "instructions", "preferences", "questions") if getattr(wanted, name)]
    given += ["benchmark"] * bool(wanted.benchmarks) + [command] * (command != "run")
    if given:
        problem = f"--{given[0]} needs --documents: without documents there is nothing new to learn"
        raise ConfigError(problem, "name the documents of your domain with --documents: a file, a folder or a glob")


def _write(path: Path, text: str) -> None:
    """Write a configuration; a file that cannot be loaded is never left behind."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        load_any(draft)
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", "choose another place") from None
    finally:
        draft.unlink(missing_ok=True)


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
    print_line(f"{path} is valid: {_checked(config, path)}")


def _checked(config: Settings, path: Path) -> str:
    """Check a configuration and return one sentence about it, or raise its problems."""
    match config:
        case CorpusConfig():
            from mixcpt.checks.preflight import preflight_corpus

            preflight_corpus(config)
            return f"the corpus {config.name} with {len(config.tasks)} task{'' if len(config.tasks) == 1 else 's'}"
        case CompareConfig():
            return f"{config.name} compares {len(config.contenders)} contenders on {_base(config.first, path, config)}"
        case AdviseConfig():
            return f"{config.name} searches in {config.num_trials} trainings of {_base(config.given, path, config)}"
        case ReadaptConfig():
            return f"{config.name} re-adapts, in rounds, {_base(config.adapt, path, config)}"
        case AdaptConfig():
            return f"{config.name} adapts {_base(config, path)}"
    raise TypeError(type(config).__name__)


def _base(config: AdaptConfig, path: Path, study: Settings | None = None) -> str:
    """Check a run and return its base model in words."""
    return checked(config, path, study).base.name
