"""One adaptation as its tasks see it: settings, base model, identity, and the MLflow run that holds it together."""

from dataclasses import dataclass, replace

from prefect.runtime import flow_run

from mixcpt.config import AdaptConfig, RuntimeConfig
from mixcpt.records.run import RunResult, run_identity
from mixcpt.stages.chain import curation_job
from mixcpt.stages.registry import find_stage
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import ModelRef, resolve_model
from tasks.stage_runs import begin_parent
from tasks.tracking import FLOW_RUN, ROOT_FLOW_RUN, Place, Tracking, open_tracking


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """The run of an adaptation, passed to every task."""

    config: AdaptConfig
    base: ModelRef
    key: str = ""
    """Fingerprint of the settings, the base model and the content of the sources; empty for part of another run."""
    run_id: str = ""
    """Parent run in MLflow; empty if MLflow does not answer."""
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
        """Which flow run an MLflow run belongs to, so that hooks find it."""
        return {FLOW_RUN: self.flow_run_id, ROOT_FLOW_RUN: self.root_flow_run_id}


def open_adaptation(config: AdaptConfig) -> Adaptation:
    """Returns the adaptation of these settings; nothing is tracked yet.

    Raises:
        MixcptError: If the base model or a source cannot be used.
    """
    base = resolve_model(config.base)
    corpus = find_stage("curate").key_of(curation_job(config))
    key = run_identity(config, base, corpus.fingerprint)
    return Adaptation(config=config, base=base, key=key, **_flow_run_ids())


def reopen_adaptation(run: RunResult, runtime: RuntimeConfig) -> Adaptation:
    """Returns a finished run as an adaptation whose stages can be asked once more; its sources need not be there."""
    config = run.config.model_copy(update={"runtime": runtime})
    return Adaptation(config=config, base=run.base, run_id=run.tracking.run_id, **_flow_run_ids())


def part_of(config: AdaptConfig, base: ModelRef, run_id: str, root_flow_run_id: str) -> Adaptation:
    """Returns the adaptation whose flow waits elsewhere for what is computed here."""
    here = config.runtime.model_copy(update={"gpu_pool": ""})
    ids = _flow_run_ids() | {"root_flow_run_id": root_flow_run_id}
    return Adaptation(config=config.model_copy(update={"runtime": here}), base=base, run_id=run_id, **ids)


def _flow_run_ids() -> dict[str, str]:
    root = str(flow_run.root_flow_run_id or flow_run.id or "")
    return {"flow_run_id": str(flow_run.id or ""), "root_flow_run_id": root}


def track(adaptation: Adaptation, parent: str = "") -> Adaptation:
    """Returns the adaptation with its MLflow run open, below the run `parent` where it is part of a comparison."""
    config = adaptation.config
    params = {
        "seed": config.seed,
        "data_seed": config.data_seed,
        "base": config.base.model,
        "method": config.pretrain.method.model_dump(),
        "mixture": config.mixture.model_dump(),
        "selection": config.align.selection.model_dump(),
    }
    tags = {**adaptation.tags, "mixcpt.base_digest": adaptation.base.digest}
    run_id = begin_parent(adaptation.tracking, adaptation.key, config.name, tags, params, parent)
    return replace(adaptation, run_id=run_id or "")
