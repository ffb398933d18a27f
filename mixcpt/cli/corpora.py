"""`mixcpt corpus`: what has arrived for the next re-adaptation."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from mixcpt.cli.console import Store, err, explain_errors, out
from mixcpt.config import CorpusConfig, FilesSource, MultipleChoiceTask, load_corpus
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import ArtifactStore

corpus = typer.Typer(no_args_is_help=True, help="Corpora that a re-adaptation learns (`mixcpt readapt`).")

_SETTINGS = (".yaml", ".yml")


@corpus.command()
@explain_errors
def add(
    path: Annotated[
        Path, typer.Argument(help="Documents: a file or a folder; or a YAML file with source, tasks and note.")
    ],
    name: Annotated[str, typer.Option(help="Name of the corpus; that of the file or folder if not given.")] = "",
    questions: Annotated[
        Path | None, typer.Option(help="jsonl with question, choices, answer and doc_id, to see what was learned.")
    ] = None,
    note: Annotated[str, typer.Option(help="Why it is here, shown in the lineage.")] = "",
    heldout_fraction: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of the documents that no training reads, to measure on.")
    ] = 0.05,
    store: Store = ".mixcpt",
) -> None:
    """Register documents for the next re-adaptation, and tell a running Prefect server that they are here.

    They are read, cleaned and copied into the store; what an earlier corpus has already is left out. The same
    documents again change nothing. Adding to a corpus of the same name registers its new documents as a further
    delivery.
    """
    from mixcpt.rounds.registration import NothingNew, register, registered
    from mixcpt.servers.announcement import announce

    config = load_corpus(path) if path.suffix in _SETTINGS else _given(path, name, questions, note)
    artifacts = ArtifactStore(store)
    known = {delivery.name for delivery in registered(artifacts)}
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
        err.print("it was registered already, so nobody is told", markup=False)
        return
    err.print(announce(delivery, artifacts.root), markup=False, highlight=False, soft_wrap=True)


@corpus.command("list")
@explain_errors
def list_corpora(store: Store = ".mixcpt") -> None:
    """List what is registered, oldest first."""
    from mixcpt.rounds.registration import registered

    table = Table()
    for heading in ("corpus", "registered", "documents", "held out", "tasks", "note"):
        table.add_column(heading, overflow="fold")
    for each in registered(ArtifactStore(store)):
        tasks = Text("\n".join(task.name for task in each.tasks))
        counts = (f"{each.num_documents:,}", f"{each.num_heldout:,}")
        table.add_row(Text(each.name), each.ref.record["created_at"][:16], *counts, tasks, Text(each.note))
    out.print(table)


def _given(path: Path, name: str, questions: Path | None, note: str) -> CorpusConfig:
    if not path.exists():
        raise ConfigError(f"{path} does not exist", "give a file or a folder of documents")
    named = name or "".join(sign if sign.isalnum() else "-" for sign in path.name.split(".")[0]).strip("-")
    tasks = (MultipleChoiceTask(name="questions", group="domain", path=str(questions)),) if questions else ()
    source = FilesSource(name=named, pool="domain", paths=(str(path),))
    return CorpusConfig(source=source, tasks=tasks, note=note)
