"""The main job from Python: all stages in this process, without Prefect and MLflow."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mixcpt.checks.preflight import preflight
from mixcpt.config import AdaptConfig
from mixcpt.records.run import Adapting, RunResult, run_to_result
from mixcpt.stages.jobs import Job
from mixcpt.stages.registry import find_stage
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import resolve_model
from mixcpt.store.spool import NullTracker, Tracker


def adapt(
    config: AdaptConfig,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
    tracker: Tracker = NullTracker(),  # noqa: B008 it has no state
) -> RunResult:
    """Adapt a base model to documents and return the artifacts of the run.

    Stages that are in the store (`config.runtime.store`) are not computed again, and an interrupted training resumes
    from its last checkpoint. The adapted model is the Hugging Face folder `result.final_model.path`.

    Args:
        config: Settings, for example from `mixcpt.load_config`.
        on_stage: Called before a stage starts, with its name.
        tracker: Receives the metrics of all stages.

    Raises:
        ConfigError: If the settings, sources, tasks or the base model have problems; lists all of them.
    """
    preflight(config)
    adapting = Adapting(config, resolve_model(config.base))
    store = ArtifactStore(config.runtime.store)

    def run(jobs: Sequence[Job]) -> dict[str, ArtifactRef]:
        results: dict[str, ArtifactRef] = {}
        for job in jobs:
            on_stage(job.name)
            results[job.name] = find_stage(job.stage).run_job(job.resolve(results), store, tracker)
        return results

    return run_to_result(adapting, run)


def results_table(*runs: RunResult) -> str:
    """Return the results of some runs with the same base model as a Markdown table: scores, changes and intervals."""
    from mixcpt.report.summary import summarise
    from mixcpt.report.table import markdown_table

    return markdown_table(summarise(runs))


def write_report(path: str | Path, *runs: RunResult) -> Path:
    """Write one HTML page about some runs with the same base model, and return its path."""
    from mixcpt.report import page

    return page.write_report(runs, ArtifactStore(runs[0].config.runtime.store), Path(path))
