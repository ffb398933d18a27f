"""`mixcpt corpus`, `readapt`, `promote` and `rollback`: rounds of re-adaptation and the champion model."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from mixcpt.cli.console import (
    Overrides,
    Store,
    StoreOfFile,
    checked,
    explain_errors,
    out,
    print_line,
    print_note,
    with_store,
)
from mixcpt.cli.launch import become
from mixcpt.config import (
    CorpusConfig,
    FilesSource,
    MultipleChoiceTask,
    PromoteConfig,
    ReadaptConfig,
    RollbackConfig,
    RuntimeConfig,
    load_settings,
)
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import ArtifactStore

Because = Annotated[str, Option(help="Reason, stored in MLflow.")]
Registered = Annotated[str, Option(help="Name of the registered model in MLflow.")]
_RUNTIME = RuntimeConfig()

corpus = typer.Typer(
    name="corpus", no_args_is_help=True, help="Register and list the corpora that `mixcpt readapt` learns."
)


@corpus.command()
@explain_errors
def add(
    path: Annotated[Path, Argument(help="Documents: a file or a folder, or a YAML file with source, tasks and note.")],
    name: Annotated[str, Option(help="Name of the corpus. Default: the name of the file or folder.")] = "",
    questions: Annotated[
        Path | None, Option(help="Questions to measure learning: jsonl with question, choices, answer, doc_id.")
    ] = None,
    note: Annotated[str, Option(help="Remark about the corpus, shown in the lineage.")] = "",
    heldout_fraction: Annotated[
        float, Option(min=0, max=0.5, help="Share of the documents kept out of training, for measurements.")
    ] = 0.05,
    store: Store = ".mixcpt",
) -> None:
    """Register documents for the next re-adaptation, and notify a running Prefect server.

    The documents are cleaned and copied into the store; documents of an earlier corpus are skipped. Registering the
    same documents again changes nothing. New documents under an existing name become a further delivery of that
    corpus.

    ```
    mixcpt corpus add ./bones --questions bones.jsonl --note "second shelf of the library"
    ```
    """
    from mixcpt.rounds.registration import NothingNew, list_deliveries, register
    from mixcpt.servers.stack import announce

    if path.suffix in (".yaml", ".yml"):
        config = load_settings(CorpusConfig, path)
    else:
        config = _corpus_config(path, name, questions=questions, note=note)
    artifacts = ArtifactStore(store)
    known = {delivery.name for delivery in list_deliveries(artifacts)}
    try:
        delivery = register(config, artifacts, heldout_fraction=heldout_fraction)
    except NothingNew as nothing:
        print_note(nothing.problem)
        return
    counts = delivery.ref.record["metrics"]
    print_line(
        f"{delivery.name}: {counts['documents']:,} documents to learn, {counts['heldout']:,} held out, "
        f"{counts['removed']:,} removed, {counts['quarantined']:,} quarantined, {len(delivery.tasks)} tasks"
    )
    if delivery.name in known:
        print_note("it was registered already: the Prefect server is not notified")
        return
    print_note(announce(delivery, artifacts.root))


@corpus.command("list")
@explain_errors
def list_corpora(store: Store = ".mixcpt") -> None:
    """List the registered corpora, oldest first, with their numbers of documents."""
    from mixcpt.rounds.registration import list_deliveries

    table = Table()
    for heading in ("corpus", "registered", "documents", "held out", "tasks", "note"):
        table.add_column(heading, overflow="fold")
    for delivery in list_deliveries(ArtifactStore(store)):
        table.add_row(
            Text(delivery.name),
            delivery.ref.record["created_at"][:16],
            f"{delivery.num_documents:,}",
            f"{delivery.num_heldout:,}",
            Text("\n".join(task.name for task in delivery.tasks)),
            Text(delivery.note),
        )
    out.print(table)


@explain_errors
def readapt(
    path: Annotated[Path, Argument(help="YAML file of the rounds; the settings of a run are in its section adapt.")],
    overrides: Overrides = None,
    store: StoreOfFile = "",
) -> None:
    """Train on the corpora registered since the champion, and promote the result if it passes the gates.

    Corpora of earlier rounds are replayed. The base, the champion and the candidate answer the same questions about
    every corpus so far. Without new corpora the command does nothing. Run it again to resume after a stop.

    ```
    mixcpt corpus add ./new-documents
    mixcpt readapt rounds.yaml
    ```
    """
    config = load_settings(ReadaptConfig, path, with_store(overrides, store, "adapt.runtime.store"))
    checked(config.adapt, path, config)
    become("readapt", config, store=config.adapt.runtime.store, are_checked=True)


@explain_errors
def promote(
    model: Annotated[str, Argument(help="Version number, alias, or name of a run.")] = "challenger",
    because: Because = "by hand",
    registered_model: Registered = _RUNTIME.registered_model,
    store: Store = _RUNTIME.store,
) -> None:
    """Make a registered model the champion, if it still gives the answers of its evaluation.

    If its answers have changed, the previous champion is restored.

    ```
    mixcpt promote 3 --because "better on the heart questions"
    ```
    """
    runtime = RuntimeConfig(store=store, registered_model=registered_model)
    config = PromoteConfig(model=model, because=because, runtime=runtime)
    become("promote", config, store=store)


@explain_errors
def rollback(
    because: Because = "by hand",
    registered_model: Registered = _RUNTIME.registered_model,
    store: Store = _RUNTIME.store,
) -> None:
    """Restore the previous champion.

    The corpora of the withdrawn model are not learned again automatically; to repeat them, list them in the setting
    `again` of the rounds.

    ```
    mixcpt rollback --because "wrong answers about bones"
    ```
    """
    config = RollbackConfig(because=because, runtime=RuntimeConfig(store=store, registered_model=registered_model))
    become("rollback", config, store=store)


def _corpus_config(path: Path, name: str, *, questions: Path | None, note: str) -> CorpusConfig:
    if not path.exists():
        raise ConfigError(f"{path} does not exist", "name a file or a folder with documents")
    stem = path.name.split(".")[0]
    name = name or "".join(sign if sign.isalnum() else "-" for sign in stem).strip("-")
    tasks = (MultipleChoiceTask(name="questions", group="domain", path=str(questions)),) if questions else ()
    source = FilesSource(name=name, pool="domain", paths=(str(path),))
    return CorpusConfig(source=source, tasks=tasks, note=note)
