"""The state of an adaptation that its tasks share, with its parent run in MLflow, and the result of its run."""

from dataclasses import dataclass, replace

from mixcpt.config import AdaptConfig, RuntimeConfig
from mixcpt.records.run import RunResult, TrackingRef, run_identity
from mixcpt.stages.chain import curation_job, final_role
from mixcpt.stages.registry import find_stage
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, resolve_model
from tasks.rows import start_tags
from tasks.stage_runs import begin_parent, flow_run_tags
from tasks.tracking import FLOW_RUN, ROOT_FLOW_RUN, Place, Tracking, open_tracking


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Settings and identity of an adaptation, passed to every task."""

    config: AdaptConfig
    base: ModelRef
    key: str = ""
    """Fingerprint of the settings, the base model and the sources; empty if another run owns the results."""
    run_id: str = ""
    """Parent run in MLflow; empty if MLflow is unreachable."""
    flow_run_id: str = ""
    root_flow_run_id: str = ""

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.config.runtime.store)

    @property
    def tracking(self) -> Tracking:
        return open_tracking(Place.of(self.config.runtime))

    @property
    def tags(self) -> dict[str, str]:
        """Tags by which hooks find the MLflow runs of a flow run."""
        return {FLOW_RUN: self.flow_run_id, ROOT_FLOW_RUN: self.root_flow_run_id}


def open_adaptation(config: AdaptConfig) -> Adaptation:
    """Return the adaptation of these settings, without an MLflow run.

    Raises:
        MixcptError: If the base model or a source cannot be used.
    """
    base = resolve_model(config.base)
    corpus = find_stage("curate").key_of(curation_job(config))
    key = run_identity(config, base, corpus.fingerprint)
    return Adaptation(config=config, base=base, key=key, **_flow_run_ids())


def reopen_adaptation(run: RunResult, runtime: RuntimeConfig) -> Adaptation:
    """Return the adaptation of a finished run, to compute further stages; its sources need not exist any more."""
    config = run.config.model_copy(update={"runtime": runtime})
    return Adaptation(config=config, base=run.base, run_id=run.tracking.run_id, **_flow_run_ids())


def join_adaptation(config: AdaptConfig, base: ModelRef, run_id: str, root_flow_run_id: str) -> Adaptation:
    """Return the adaptation of a flow on another machine that waits for stages computed on this one."""
    here = config.runtime.model_copy(update={"gpu_pool": ""})
    ids = _flow_run_ids() | {"root_flow_run_id": root_flow_run_id}
    return Adaptation(config=config.model_copy(update={"runtime": here}), base=base, run_id=run_id, **ids)


def _flow_run_ids() -> dict[str, str]:
    tags = flow_run_tags()
    return {"flow_run_id": tags[FLOW_RUN], "root_flow_run_id": tags[ROOT_FLOW_RUN]}


def track(adaptation: Adaptation, parent: str = "") -> Adaptation:
    """Open the MLflow run of an adaptation, below the run `parent` if given, and return the adaptation with its id."""
    config = adaptation.config
    params = {
        "seed": config.seed,
        "data_seed": config.data_seed,
        "base": config.base.model,
        "method": config.pretrain.method.model_dump(),
        "mixture": config.mixture.model_dump(),
        "selection": config.align.selection.model_dump(),
    }
    tags = {**adaptation.tags, "mixcpt.base_digest": adaptation.base.digest, **start_tags(config, adaptation.base)}
    run_id = begin_parent(adaptation.tracking, adaptation.key, config.name, tags=tags, params=params, parent=parent)
    return replace(adaptation, run_id=run_id or "")


def assemble(
    adaptation: Adaptation, refs: dict[str, ArtifactRef], evaluations: dict[str, ArtifactRef], version: str = ""
) -> RunResult:
    """Return the result of a run from its artifacts and evaluations by role."""
    tracking = TrackingRef()
    if adaptation.run_id:
        mlflow = adaptation.tracking
        tracking = TrackingRef(mlflow.place.uri, mlflow.experiment_id, adaptation.run_id, version)
    return RunResult(
        config=adaptation.config,
        base=adaptation.base,
        refs=refs,
        final=final_role(refs),
        evaluations=evaluations,
        tracking=tracking,
    )
