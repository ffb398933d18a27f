"""`mixcpt corpus`: corpora for the next re-adaptation."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from mixcpt.cli.console import Store, err, explain_errors, out
from mixcpt.config import CorpusConfig, FilesSource, MultipleChoiceTask, load_settings
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import ArtifactStore

corpus = typer.Typer(
    name="corpus", no_args_is_help=True, help="Register and list the corpora that `mixcpt readapt` learns."
)


@corpus.command()
@explain_errors
def add(
    path: Annotated[
        Path, typer.Argument(help="Documents: a file or a folder, or a YAML file with source, tasks and note.")
    ],
    name: Annotated[str, typer.Option(help="Name of the corpus. Default: the name of the file or folder.")] = "",
    questions: Annotated[
        Path | None,
        typer.Option(help="Questions to measure learning: jsonl with question, choices, answer, doc_id."),
    ] = None,
    note: Annotated[str, typer.Option(help="Remark about the corpus, shown in the lineage.")] = "",
    heldout_fraction: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of the documents kept out of training, for measurements.")
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
    from mixcpt.servers.announcement import announce

    if path.suffix in (".yaml", ".yml"):
        config = load_settings(CorpusConfig, path)
    else:
        config = _corpus_config(path, name, questions=questions, note=note)
    artifacts = ArtifactStore(store)
    known = {delivery.name for delivery in list_deliveries(artifacts)}
    try:
        delivery = register(config, artifacts, heldout_fraction=heldout_fraction)
    except NothingNew as nothing:
        err.print(nothing.problem, markup=False, highlight=False, soft_wrap=True)
        return
    counts = delivery.ref.record["metrics"]
    out.print(
        f"{delivery.name}: {counts['documents']:,} documents to learn, {counts['heldout']:,} held out, "
        f"{counts['removed']:,} removed, {counts['quarantined']:,} quarantined, {len(delivery.tasks)} tasks",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    if delivery.name in known:
        err.print("it was registered already: the Prefect server is not notified", markup=False)
        return
    err.print(announce(delivery, artifacts.root), markup=False, highlight=False, soft_wrap=True)


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


def _corpus_config(path: Path, name: str, *, questions: Path | None, note: str) -> CorpusConfig:
    if not path.exists():
        raise ConfigError(f"{path} does not exist", "name a file or a folder with documents")
    stem = path.name.split(".")[0]
    name = name or "".join(sign if sign.isalnum() else "-" for sign in stem).strip("-")
    tasks = (MultipleChoiceTask(name="questions", group="domain", path=str(questions)),) if questions else ()
    source = FilesSource(name=name, pool="domain", paths=(str(path),))
    return CorpusConfig(source=source, tasks=tasks, note=note)
