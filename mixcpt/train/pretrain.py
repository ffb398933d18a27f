"""Stage 1, continual pre-training: a mixture and a base model in, an adapted model out."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainingArguments

from mixcpt.config import PretrainConfig, Sharding
from mixcpt.distill.body import check_model
from mixcpt.distill.head import CausalModel, head_of
from mixcpt.distill.teacher_cache import TeacherCache
from mixcpt.errors import ArtifactError, ConfigError
from mixcpt.mixture.account import MixtureAccount
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import Tracker
from mixcpt.train.arguments import training_arguments
from mixcpt.train.callbacks import last_complete_checkpoint, observe
from mixcpt.train.data import MixtureRows
from mixcpt.train.publishing import publish
from mixcpt.train.retention import Probe, RetentionCallback, RetentionController, draw_back
from mixcpt.train.scope import apply_scope, scope_summary
from mixcpt.train.sharding import environment, gathered_state, shard_over_all, sharding_arguments
from mixcpt.train.streams import Stream
from mixcpt.train.teachers import AdapterOffTeacher, CachedTeacher, FrozenTeacher, TeacherSource
from mixcpt.train.trainer import DistillationTrainer

_VERSION = 2
_log = logging.getLogger("mixcpt.train")


def pretrain(
    config: PretrainConfig,
    mixture: ArtifactRef,
    base: ModelRef,
    *,
    seed: int,
    store: ArtifactStore,
    tracker: Tracker,
    cache: ArtifactRef | None = None,
    sharding: Sharding = "none",
    probe: Probe | None = None,
) -> ArtifactRef:
    """Returns the adapted model, in the folder `model` of its artifact, with `history.json` beside it.

    One pass over the rows of the mixture in their order; a last batch that is not full is kept. After an interruption
    it goes on from the last whole checkpoint, bit for bit on CPU. Under torchrun every process calls this, and the
    first one publishes.

    Args:
        cache: What `cache_teacher` made of the mixture; needed by the teacher `cached`.
        sharding: How several devices share the parameters; it changes no result.
        probe: Asks after the skills that `config.retention` promises to keep; needed where it promises anything.

    Raises:
        ConfigError: If micro_batch_rows times the number of processes does not divide batch_rows, or the mixture was
            made for other streams.
        ModelError: If the model cannot be trained on packed rows, or not in the scope.
        ArtifactError: If the result could not be written.
    """
    inputs = {"mixture": mixture.digest, "base": base.digest} | ({"cache": cache.digest} if cache else {})
    inputs |= {"probe": probe.digest} if probe else {}
    key = StageKey("model", _VERSION, {"stage": "pretrain", "pretrain": config, "seed": seed}, inputs)
    checkpoints = store.work_directory(key) / "checkpoints"
    work = _Work(config, mixture, base, cache, seed, sharding, checkpoints, tracker, probe)

    def build(folder: Path) -> dict[str, Any]:
        trainer = _train(work)
        kept = _keep_promise(trainer, work)
        return publish(trainer, _whole_model(trainer, work), base, folder) | kept

    if environment("RANK", 0) == 0:
        ref = store.produce(key, build, lineage={"base": base.name})
        shutil.rmtree(work.checkpoints, ignore_errors=True)
        _wait()
        return ref
    if store.find(key.kind, key.fingerprint) is None:
        trainer = _train(work)
        _keep_promise(trainer, work)
        _whole_model(trainer, work)
    _wait()
    if published := store.find(key.kind, key.fingerprint):
        return published
    raise ArtifactError("the first process has not published the model", "see its own error")


@dataclass(frozen=True)
class _Work:
    """What a training is made of."""

    config: PretrainConfig
    mixture: ArtifactRef
    base: ModelRef
    cache: ArtifactRef | None
    seed: int
    sharding: Sharding
    checkpoints: Path
    tracker: Tracker
    probe: Probe | None


def _train(work: _Work) -> DistillationTrainer:
    """Returns the trainer when all steps are done, whether in this process or, before an interruption, in another."""
    config = work.config
    arguments = _arguments(work)
    rows = MixtureRows(Path(work.mixture.path), config.batch_rows)
    streams = _streams(config, rows)
    base = load_model(work.base)
    check_model(base)
    student = apply_scope(base, config.scope, seed=work.seed)
    _log.info(scope_summary(student))
    is_taught = any(stream.objective.needs_teacher for stream in streams)
    keeper = _keeper(work, rows)
    trainer = DistillationTrainer(
        student,
        arguments,
        rows,
        streams=streams,
        schedule=config.optimizer,
        teacher=_teacher(work, student) if is_taught else None,
        keeper=keeper,
    )
    if keeper:
        trainer.add_callback(RetentionCallback(trainer, keeper))
    observe(trainer, work.tracker)
    checkpoint = last_complete_checkpoint(work.checkpoints)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer


def _keeper(work: _Work, rows: MixtureRows) -> RetentionController | None:
    if not work.config.retention.max_loss:
        return None
    if work.probe is None:
        raise ConfigError("pretrain.retention promises something and there is no probe", "draw one: `draw_probe`")
    return RetentionController(work.config.retention, work.probe, torch.tensor(rows.domain_sources))


def _keep_promise(trainer: DistillationTrainer, work: _Work) -> dict[str, Any]:
    """Returns what became of the promise, after moving the weights back towards the base as far as it asks for."""
    if trainer.keeper is None:
        return {}
    model = trainer.accelerator.unwrap_model(trainer.model)
    pressure, share = trainer.keeper.pressure, 1.0
    if not trainer.keeper.holds(model):
        start = apply_scope(load_model(work.base), work.config.scope, seed=work.seed)
        before = {name: weight.detach() for name, weight in start.named_parameters() if weight.requires_grad}
        share = draw_back(model, before, trainer.keeper)
    return {"retention": {"share_of_change": share, "pressure": pressure, **trainer.keeper.measures}}


def _streams(config: PretrainConfig, rows: MixtureRows) -> list[Stream]:
    streams = config.method.streams()
    views = [stream.view != "text" for stream in streams]
    if views != [stream.is_pair for stream in rows.streams]:
        raise ConfigError(
            f"the mixture has {len(rows.streams)} streams, which are not those of method {config.method.kind}",
            "mix the corpus with the streams of the same method",
        )
    return [Stream.of(stream) for stream in streams]


def _teacher(work: _Work, student: CausalModel) -> TeacherSource:
    config = work.config
    if config.teacher.kind == "adapter_off":
        return AdapterOffTeacher(student, bf16=config.precision == "bf16")
    if config.teacher.kind == "frozen":
        frozen = load_model(work.base, dtype="bfloat16" if config.precision == "bf16" else "float32")
        return FrozenTeacher(frozen if work.sharding == "none" else shard_over_all(frozen))
    if work.cache is None:
        raise ConfigError("teacher cached needs what `cache_teacher` made of this mixture", "run it first")
    tokens_digest = MixtureAccount.of(work.mixture).tokens_digest
    return CachedTeacher(
        TeacherCache.open(
            work.cache,
            tokens_digest=tokens_digest,
            teacher_digest=work.base.digest,
            vocab_size=head_of(student).weight.shape[0],
        )
    )


def _arguments(work: _Work) -> TrainingArguments:
    config = work.config
    num_processes = environment("WORLD_SIZE", 1)
    accumulation_steps, rest = divmod(config.batch_rows, config.micro_batch_rows * num_processes)
    if rest:
        raise ConfigError(
            f"pretrain.batch_rows is {config.batch_rows}, which {num_processes} processes with "
            f"{config.micro_batch_rows} rows each (pretrain.micro_batch_rows) do not divide",
            "choose batch_rows as a multiple of micro_batch_rows x processes",
        )
    common = training_arguments(
        config.optimizer,
        folder=work.checkpoints,
        seed=work.seed,
        micro_batch_size=config.micro_batch_rows,
        accumulation_steps=accumulation_steps,
        log_steps=config.log_steps,
        checkpoint_steps=config.checkpoint_steps,
        precision=config.precision,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    if work.sharding != "none" and config.optimizer.state == "int8":
        raise ConfigError("optimizer.state int8 cannot be sharded", "set runtime.sharding to none, or state to fp32")
    sharded = sharding_arguments(work.sharding, recompute=config.gradient_checkpointing)
    return TrainingArguments(**common | sharded, train_sampling_strategy="sequential", remove_unused_columns=False)


def _whole_model(trainer: DistillationTrainer, work: _Work) -> CausalModel:
    """Returns the trained model with all its parameters; where they are sharded, every process has to take part."""
    model: CausalModel = trainer.accelerator.unwrap_model(trainer.model)
    state = gathered_state(trainer.accelerator, model)
    if state is None:
        return model
    whole = apply_scope(load_model(work.base), work.config.scope, seed=work.seed)
    if environment("RANK", 0) == 0:
        whole.load_state_dict(state)
    return whole


def _wait() -> None:
    """Waits for the other processes, where there are any."""
    if environment("WORLD_SIZE", 1) > 1:
        PartialState().wait_for_everyone()
