"""`mixcpt merge`: combine models weight by weight, without training."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError
from typer import Argument, Option

from mixcpt.cli.console import Overrides, Store, err, explain_errors, out, print_line, print_note
from mixcpt.config import AverageConfig, InterpolateConfig, ResidualConfig, SweepConfig, load_config
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore

_MODELS = (
    "A model is a folder, closed-world, a hub id (owner/model), a finished run (its final model), "
    "RUN@pretrained or another model of a run, or the --name of an earlier merge."
)

merge = typer.Typer(
    name="merge", no_args_is_help=True, help=f"Combine models of one architecture, without training. {_MODELS}"
)

Base = Annotated[str, Argument(help="Common ancestor of the models.")]
Tuned = Annotated[str, Argument(help="Model that was trained from BASE.")]
Name = Annotated[str, Option(help="Name of the result, for later commands.")]
FilesOf = Annotated[Literal["base", "tuned"], Option(help="Source of the configuration, tokenizer and chat template.")]
ShardBytes = Annotated[int, Option(min=1, help="Maximum bytes of one file, and roughly the memory that is needed.")]
_SHARD_BYTES = AverageConfig().max_shard_bytes


@merge.command()
@explain_errors
def interpolate(
    base: Base,
    tuned: Tuned,
    weight: Annotated[float, Option(min=0, max=1, help="Share of TUNED; 0 gives BASE, 1 gives TUNED.")] = 0.5,
    name: Name = "",
    files_of: FilesOf = "tuned",
    max_shard_bytes: ShardBytes = _SHARD_BYTES,
    store: Store = ".mixcpt",
) -> None:
    """Interpolate: (1 - weight) x BASE + weight x TUNED (WiSE-FT, arXiv 2109.01903).

    Use it for a model that learned the domain but forgot too much: a model between the two often keeps most of both.
    `mixcpt merge sweep` measures the weights.

    ```
    mixcpt merge interpolate my-run@base my-run@pretrained --weight 0.7 --name softer
    ```
    """
    from mixcpt.merge.methods import interpolate as interpolate_models
    from mixcpt.merge.names import find_model

    artifacts = ArtifactStore(store)
    config = InterpolateConfig(weight=weight, files_of=files_of, max_shard_bytes=max_shard_bytes)
    models = find_model(artifacts, base), find_model(artifacts, tuned)
    _print_result(interpolate_models(config, *models, store=artifacts, name=name), name)


@merge.command()
@explain_errors
def residual(
    adapted: Annotated[str, Argument(help="BASE after continual pre-training on the domain.")],
    instruct: Annotated[str, Argument(help="BASE after instruction tuning.")],
    base: Base,
    scale: Annotated[float, Option(min=0, help="Factor of INSTRUCT - BASE.")] = 1.0,
    name: Name = "",
    max_shard_bytes: ShardBytes = _SHARD_BYTES,
    store: Store = ".mixcpt",
) -> None:
    """Add chat behaviour to an adapted base: ADAPTED + scale x (INSTRUCT - BASE) (arXiv 2212.04089).

    Use it if the domain was learned on the base model but you need a chat model; no alignment is trained. The result
    has the configuration, tokenizer and chat template of INSTRUCT.

    ```
    mixcpt merge residual my-run@pretrained ./instruct ./base --name my-chat
    ```
    """
    from mixcpt.merge.methods import residual as residual_models
    from mixcpt.merge.names import find_model

    artifacts = ArtifactStore(store)
    config = ResidualConfig(scale=scale, max_shard_bytes=max_shard_bytes)
    models = [find_model(artifacts, model) for model in (adapted, instruct, base)]
    _print_result(residual_models(config, *models, store=artifacts, name=name), name)


@merge.command()
@explain_errors
def average(
    models: Annotated[list[str], Argument(help="Two or more models.")],
    name: Name = "",
    max_shard_bytes: ShardBytes = _SHARD_BYTES,
    store: Store = ".mixcpt",
) -> None:
    """Average models that were trained from one checkpoint (model soups, arXiv 2203.05482).

    Examples are one configuration trained with several seeds, or the last checkpoints of one training. The result has
    the configuration, tokenizer and chat template of the first model.

    ```
    mixcpt merge average seed-0 seed-1 seed-2 --name soup
    ```
    """
    from mixcpt.merge.methods import average as average_models
    from mixcpt.merge.names import find_model

    artifacts = ArtifactStore(store)
    refs = [find_model(artifacts, model) for model in models]
    config = AverageConfig(max_shard_bytes=max_shard_bytes)
    _print_result(average_models(config, *refs, store=artifacts, name=name), name)


@merge.command()
@explain_errors
def sweep(
    base: Base,
    tuned: Tuned,
    config: Annotated[
        Path | None,
        Option(help="YAML file of a run with the tasks, sources, seed and store to use. Default: the demo."),
    ] = None,
    weights: Annotated[str, Option(help="Increasing shares of TUNED, with commas.")] = "0,0.25,0.5,0.75,1",
    max_domain_loss: Annotated[
        float, Option(min=0, help="Maximum distance from the best headline domain score; 0.02 means two points.")
    ] = 0.02,
    form: Annotated[Literal["plain", "chat"], Option(help="Form of the questions: chat for a chat model.")] = "plain",
    files_of: FilesOf = "tuned",
    max_shard_bytes: ShardBytes = _SHARD_BYTES,
    overrides: Overrides = None,
) -> None:
    """Evaluate interpolations between BASE and TUNED on the tasks of a configuration, and select one.

    The selected weight has the best headline general score among the weights whose headline domain score is within
    `--max-domain-loss` of the best; without a general task it is the smallest of them. It is selected on the selection
    questions; the table shows the scores on the report questions. Every weight is a complete model in the store, and
    is computed once.

    ```
    mixcpt merge sweep my-run@base my-run@pretrained --config my.yaml --weights 0.5,0.75,1
    ```
    """
    from mixcpt.curation.pipeline import curate
    from mixcpt.merge.names import find_model
    from mixcpt.merge.sweep import sweep as measure_sweep
    from mixcpt.report.sweep import sweep_choice, sweep_table
    from mixcpt.store.spool import NullTracker

    settings = load_config(config, overrides or ())
    sweep_settings = _sweep_settings(weights, max_domain_loss, files_of=files_of, max_shard_bytes=max_shard_bytes)
    artifacts = ArtifactStore(settings.runtime.store)
    ends = find_model(artifacts, base), find_model(artifacts, tuned)
    with err.status("measuring every weight"):
        corpus = curate(settings.curation, seed=settings.data_seed, store=artifacts)
        report = measure_sweep(
            sweep_settings,
            *ends,
            corpus,
            settings.evaluate,
            form=form,
            seed=settings.data_seed,
            store=artifacts,
            tracker=NullTracker(),
        )
    out.print(sweep_table(report))
    for line in sweep_choice(report):
        print_line(line)


def _sweep_settings(
    weights: str, max_domain_loss: float, *, files_of: Literal["base", "tuned"], max_shard_bytes: int
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


def _print_result(merged: ArtifactRef, name: str) -> None:
    """Print the path of a merged model and its distance from each of its sources."""
    from mixcpt.merge.names import merge_name

    metrics = merged.record["metrics"]
    for role, change in metrics["relative_change"].items():
        print_line(f"{role}: changed by {100 * change:.3g} % of its norm")
    stored_name = merge_name(merged)
    if merged.reused:
        alias = f", as {stored_name}" if stored_name and stored_name != name else ""
        print_note(f"loaded from the store: this merge existed already{alias}")
    print_line(str(merged.file("model")))
