"""`mixcpt merge`: models combined weight by weight, without any training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import ValidationError

from mixcpt.cli.console import Overrides, Store, err, explain_errors, out
from mixcpt.config import AverageConfig, InterpolateConfig, ResidualConfig, SweepConfig, load_config
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore

if TYPE_CHECKING:
    from rich.table import Table

    from mixcpt.merge import SweepReport

_MODELS = (
    "A model is a folder, closed-world, a hub id (owner/model), a finished run (its final model), "
    "RUN@pretrained or another model of a run, or the --name of an earlier merge."
)

merge = typer.Typer(no_args_is_help=True, help=f"Combine models of one architecture, without training. {_MODELS}")

Base = Annotated[str, typer.Argument(help="The model that the others started from.")]
Tuned = Annotated[str, typer.Argument(help="The model that was trained from it.")]
Name = Annotated[str, typer.Option(help="What to call the result, in later merges too.")]
FilesOf = Annotated[
    Literal["base", "tuned"],
    typer.Option(help="Whose configuration, tokenizer and chat template the result gets."),
]
ShardBytes = Annotated[
    int, typer.Option(min=1, help="Largest file of the result, and about the memory that the merge needs.")
]
_SHARD_BYTES = AverageConfig().max_shard_bytes


@merge.command()
@explain_errors
def interpolate(
    base: Base,
    tuned: Tuned,
    weight: Annotated[float, typer.Option(min=0, max=1, help="Share of TUNED: 0 is BASE, 1 is TUNED.")] = 0.5,
    name: Name = "",
    files_of: FilesOf = "tuned",
    max_shard_bytes: ShardBytes = _SHARD_BYTES,
    store: Store = ".mixcpt",
) -> None:
    """Walk back towards the base: (1 - weight) x BASE + weight x TUNED (WiSE-FT, arXiv 2109.01903).

    A training that learned the domain but forgot too much often has both in it somewhere between the
    two. `mixcpt merge sweep` measures where.
    """
    from mixcpt.merge import find_model
    from mixcpt.merge import interpolate as make

    artifacts = ArtifactStore(store)
    config = InterpolateConfig(weight=weight, files_of=files_of, max_shard_bytes=max_shard_bytes)
    models = find_model(artifacts, base), find_model(artifacts, tuned)
    _tell(make(config, *models, store=artifacts, name=name), name)


@merge.command()
@explain_errors
def residual(
    adapted: Annotated[str, typer.Argument(help="BASE after continual pre-training: it knows the domain.")],
    instruct: Annotated[str, typer.Argument(help="BASE after instruction tuning: it follows instructions.")],
    base: Base,
    scale: Annotated[float, typer.Option(min=0, help="How much of INSTRUCT - BASE is added.")] = 1.0,
    name: Name = "",
    max_shard_bytes: ShardBytes = _SHARD_BYTES,
    store: Store = ".mixcpt",
) -> None:
    """Give an adapted base its chat behaviour back: ADAPTED + scale x (INSTRUCT - BASE) (arXiv 2212.04089).

    For a domain learned on the base model while what you need is the chat model: no alignment is
    trained. The result has the configuration, tokenizer and chat template of INSTRUCT.
    """
    from mixcpt.merge import find_model
    from mixcpt.merge import residual as make

    artifacts = ArtifactStore(store)
    config = ResidualConfig(scale=scale, max_shard_bytes=max_shard_bytes)
    models = [find_model(artifacts, model) for model in (adapted, instruct, base)]
    _tell(make(config, *models, store=artifacts, name=name), name)


@merge.command()
@explain_errors
def average(
    models: Annotated[list[str], typer.Argument(help="Two models or more.")],
    name: Name = "",
    max_shard_bytes: ShardBytes = _SHARD_BYTES,
    store: Store = ".mixcpt",
) -> None:
    """Take the mean of several models that started from one checkpoint (model soups, arXiv 2203.05482).

    For instance one configuration trained with several seeds, or the last checkpoints of one training.
    The result has the configuration, tokenizer and chat template of the first.
    """
    from mixcpt.merge import average as make
    from mixcpt.merge import find_model

    artifacts = ArtifactStore(store)
    found = [find_model(artifacts, model) for model in models]
    _tell(make(AverageConfig(max_shard_bytes=max_shard_bytes), *found, store=artifacts, name=name), name)


@merge.command()
@explain_errors
def sweep(
    base: Base,
    tuned: Tuned,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of a run, for its tasks, sources, seed and store; else the demo's.")
    ] = None,
    weights: Annotated[str, typer.Option(help="Shares of TUNED to try, rising, with commas.")] = "0,0.25,0.5,0.75,1",
    max_domain_loss: Annotated[
        float, typer.Option(min=0, help="How far from the best headline domain score may be; 0.02 is two points.")
    ] = 0.02,
    form: Annotated[
        Literal["plain", "chat"], typer.Option(help="How all are asked; chat where TUNED was aligned to it.")
    ] = "plain",
    files_of: FilesOf = "tuned",
    max_shard_bytes: ShardBytes = _SHARD_BYTES,
    overrides: Overrides = None,
) -> None:
    """Ask the interpolations between BASE and TUNED the tasks of a configuration, and say which to take.

    Taken is the one that is best at the headline general task among those whose headline domain task
    is within --max-domain-loss of the best. It is chosen on the selection split of the questions; the table
    shows the report split. Every weight is a whole model in the store; what is there is not computed again.
    """
    from mixcpt.curation import curate
    from mixcpt.merge import find_model
    from mixcpt.merge import sweep as measure
    from mixcpt.store.spool import NullTracker

    settings = load_config(config, overrides or ())
    line = _sweep_settings(weights, max_domain_loss, files_of, max_shard_bytes)
    artifacts = ArtifactStore(settings.runtime.store)
    ends = find_model(artifacts, base), find_model(artifacts, tuned)
    with err.status("measuring every weight"):
        corpus = curate(settings.curation, seed=settings.data_seed, store=artifacts)
        report = measure(
            line,
            *ends,
            corpus,
            settings.evaluate,
            form=form,
            seed=settings.data_seed,
            store=artifacts,
            tracker=NullTracker(),
        )
    out.print(_table(report))
    out.print(_choice(report), markup=False, highlight=False, soft_wrap=True)


def _sweep_settings(
    weights: str, max_domain_loss: float, files_of: Literal["base", "tuned"], max_shard_bytes: int
) -> SweepConfig:
    try:
        shares = tuple(float(weight) for weight in weights.split(","))
        return SweepConfig(
            weights=shares, max_domain_loss=max_domain_loss, files_of=files_of, max_shard_bytes=max_shard_bytes
        )
    except ValidationError as error:
        problem = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
    except ValueError as error:
        problem = str(error)
    raise ConfigError(f"--weights {weights}: {problem}", "e.g. --weights 0,0.25,0.5,0.75,1")


def _tell(merged: ArtifactRef, name: str) -> None:
    """Prints where a merged model lies and how far it is from each of the models it was made of."""
    from mixcpt.merge.names import merge_name

    metrics = merged.record["metrics"]
    for role, change in metrics["relative_change"].items():
        out.print(f"{role}: changed by {100 * change:.3g} % of its norm", markup=False, highlight=False)
    known = merge_name(merged)
    if merged.reused:
        err.print(f"it was in the store already{f', as {known}' if known and known != name else ''}", markup=False)
    out.print(str(merged.file("model")), markup=False, highlight=False, soft_wrap=True)


def _table(report: "SweepReport") -> "Table":
    from rich.table import Table

    from mixcpt.report import words

    table = Table(title="score at each weight, with its standard error")
    table.add_column("task", overflow="fold")
    for point in report.points:
        table.add_column(f"{point.weight:g}{' *' if point is report.selected else ''}", justify="right")
    for task in report.points[0].scores:
        scores = [point.scores[task] for point in report.points]
        cells = [f"{words.value(s.metric, s.value)}\n± {words.value(s.metric, s.stderr)}" for s in scores]
        table.add_row(words.title(task), *cells)
    return table


def _choice(report: "SweepReport") -> str:
    from mixcpt.report import words

    chosen = report.selected
    domain, general = chosen.scores[report.domain_task], chosen.scores[report.general_task]
    loss = words.change(domain.metric, report.max_domain_loss).lstrip("+")
    return (
        f"* weight {chosen.weight:g}: on the selection questions the best {words.title(general.task)} among those "
        f"whose {words.title(domain.task)} is within {loss} {words.unit(domain.metric)} of the best.\n"
        f"On the questions of the table, which chose nothing: {words.value(general.metric, general.value)} and "
        f"{words.value(domain.metric, domain.value)}.\n"
        f"{chosen.model.file('model')}"
    )
