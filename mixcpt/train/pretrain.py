"""Stage 1, continual pre-training: trains a base model on a mixture and publishes the adapted model."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, TrainingArguments

from mixcpt.config import PretrainConfig, Sharding, StreamConfig
from mixcpt.distill.balance import warn_if_unbalanced
from mixcpt.distill.model import CausalModel, check_model, head_of, read_alike, set_packing
from mixcpt.distill.teacher_cache import TeacherCache
from mixcpt.errors import ConfigError
from mixcpt.mixture.account import MixtureAccount
from mixcpt.mixture.origins import Origins
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import Tracker
from mixcpt.train.callbacks import history, last_complete_checkpoint, observe
from mixcpt.train.costs import multiplied_weights, peak_memory_bytes, student_flops_per_token
from mixcpt.train.data import MixtureRows
from mixcpt.train.guards import ReturnToCheckpoint, require_finite
from mixcpt.train.optimizer import training_arguments
from mixcpt.train.publishing import publish_from_first
from mixcpt.train.retention import Probe, RetentionCallback, RetentionController, draw_back
from mixcpt.train.scope import apply_scope, merged, scope_summary
from mixcpt.train.sharding import environment, gathered_state, shard_over_all, sharding_arguments
from mixcpt.train.stage import pretrain_key
from mixcpt.train.teachers import AdapterOffTeacher, CachedTeacher, FrozenTeacher, TeacherSource
from mixcpt.train.trainer import DistillationTrainer

_log = logging.getLogger("mixcpt.train")
_TIMES = ("train/seconds", "train/tokens_per_second")
_TOKENIZER_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.jinja", "*.model", "*processor_config.json", "chat_template.json"),
)


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
    """Train the base model on the mixture, and publish the model (folder `model`) with its `history.json`.

    The training is one pass over the rows of the mixture in their order, including an incomplete last batch. After an
    interruption it continues from the last complete checkpoint, on a CPU to the bit. Under torchrun every process calls
    this function, and the first one publishes.

    Args:
        mixture: The rows, mixed for the streams of `config.method`.
        cache: The teacher's cache of this mixture, required by the teacher `cached`.
        sharding: Distribution of the parameters over devices; it changes no result.
        probe: Questions about the skills to keep, required if `config.retention` limits their loss.

    Raises:
        ConfigError: If micro_batch_rows times the number of processes does not divide batch_rows, or the mixture has
            other streams than the method.
        ModelError: If the model cannot be trained on packed rows or in this scope.
        ArtifactError: If the result could not be written.
    """
    key = pretrain_key(config, mixture, base, seed=seed, cache=cache, probe_digest=probe.digest if probe else None)
    work = _Work(
        config=config,
        mixture=mixture,
        base=base,
        cache=cache,
        seed=seed,
        sharding=sharding,
        checkpoints=store.work_directory(key) / "checkpoints",
        tracker=tracker,
        probe=probe,
    )

    def train() -> tuple[DistillationTrainer, dict[str, Any]]:
        trainer = _train(work)
        return trainer, _enforce_retention(trainer, work)

    def build(folder: Path) -> dict[str, Any]:
        trainer, outcome = train()
        return _publish(trainer, _whole_model(trainer, work), base, folder) | outcome

    def assist() -> None:
        trainer, _ = train()
        _whole_model(trainer, work)

    return publish_from_first(
        store, key, build, assist=assist, checkpoints=work.checkpoints, lineage={"base": base.name}
    )


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Arguments of one training."""

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
    """Run all steps that are not in the last complete checkpoint, and return the trainer."""
    config = work.config
    arguments = _arguments(work)
    rows = MixtureRows(Path(work.mixture.path), config.batch_rows)
    streams = _streams(config, rows)
    base = load_model(work.base)
    check_model(base)
    set_packing(base, config.packing)
    warn_if_unbalanced(base)
    student = apply_scope(base, config.scope, seed=work.seed)
    _log.info(scope_summary(student))
    needs_teacher = any(stream.needs_teacher for stream in streams)
    retention = _retention(work, rows)
    trainer = DistillationTrainer(
        student,
        arguments,
        rows,
        streams=streams,
        schedule=config.optimizer,
        teacher=_teacher(work, student) if needs_teacher else None,
        retention=retention,
        divergence=config.divergence,
        origins=Origins(work.mixture, work.base),
    )
    if retention:
        trainer.add_callback(RetentionCallback(trainer, retention))
    observe(trainer, work.tracker)
    checkpoint = last_complete_checkpoint(work.checkpoints)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except ReturnToCheckpoint as returned:
        trainer.return_to(returned)
    return trainer


def _retention(work: _Work, rows: MixtureRows) -> RetentionController | None:
    if not work.config.retention.max_loss:
        return None
    if work.probe is None:
        raise ConfigError("pretrain.retention.max_loss needs a probe, and there is no probe", "create it: `draw_probe`")
    return RetentionController(work.config.retention, work.probe, torch.tensor(rows.domain_sources))


def _enforce_retention(trainer: DistillationTrainer, work: _Work) -> dict[str, Any]:
    """Move the weights back towards the base as far as the retention limit requires, and return the outcome."""
    if (controller := trainer.retention) is None:
        return {}
    model = trainer.accelerator.unwrap_model(trainer.model)
    pressure, fraction = controller.pressure, 1.0
    if not controller.holds(model):
        start = apply_scope(load_model(work.base), work.config.scope, seed=work.seed)
        before = {name: weight.detach() for name, weight in start.named_parameters() if weight.requires_grad}
        fraction = draw_back(model, before, controller)
    return {"retention": {"share_of_change": fraction, "pressure": pressure, **controller.metrics}}


def _streams(config: PretrainConfig, rows: MixtureRows) -> tuple[StreamConfig, ...]:
    """Return the streams of the method; raise `ConfigError` if the mixture has others."""
    streams = config.method.streams()
    if [stream.view != "text" for stream in streams] != [stream.is_pair for stream in rows.streams]:
        raise ConfigError(
            f"the mixture has {len(rows.streams)} streams, but not the streams of method {config.method.kind}",
            "mix the corpus with the streams of the same method",
        )
    return streams


def _teacher(work: _Work, student: CausalModel) -> TeacherSource:
    config = work.config
    if config.teacher.kind == "adapter_off":
        return AdapterOffTeacher(student, bf16=config.precision == "bf16")
    if config.teacher.kind == "frozen":
        frozen = load_model(work.base, dtype="bfloat16" if config.precision == "bf16" else "float32")
        read_alike(student, frozen)
        return FrozenTeacher(frozen if work.sharding == "none" else shard_over_all(frozen))
    if work.cache is None:
        raise ConfigError("the teacher `cached` needs a cache of this mixture", "create it: `cache_teacher`")
    tokens, vocab = MixtureAccount.of(work.mixture).tokens_digest, len(head_of(student).weight)
    cache = TeacherCache.open(work.cache, tokens_digest=tokens, teacher_digest=work.base.digest, vocab_size=vocab)
    return CachedTeacher(cache)


def _arguments(work: _Work) -> TrainingArguments:
    config = work.config
    num_processes = environment("WORLD_SIZE", 1)
    accumulation_steps, rest = divmod(config.batch_rows, config.micro_batch_rows * num_processes)
    if rest:
        raise ConfigError(
            f"pretrain.batch_rows is {config.batch_rows}, which is not divisible by {num_processes} processes x "
            f"{config.micro_batch_rows} rows (pretrain.micro_batch_rows)",
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
        num_checkpoints=3 if config.divergence == "return" else 2,  # one of them may be the last good one
    )
    if work.sharding != "none" and config.optimizer.state == "int8":
        raise ConfigError("optimizer.state int8 cannot be sharded", "set runtime.sharding to none, or state to fp32")
    sharded = sharding_arguments(work.sharding, recompute=config.gradient_checkpointing)
    return TrainingArguments(**common | sharded, train_sampling_strategy="sequential", remove_unused_columns=False)


def _whole_model(trainer: DistillationTrainer, work: _Work) -> CausalModel:
    """Return the trained model with all parameters; gather them if they are sharded, which needs every process."""
    model: CausalModel = trainer.accelerator.unwrap_model(trainer.model)
    if (state := gathered_state(trainer.accelerator, model)) is None:
        return model
    whole = apply_scope(load_model(work.base), work.config.scope, seed=work.seed)
    if environment("RANK", 0) == 0:
        whole.load_state_dict(state)
    return whole


def _publish(trainer: DistillationTrainer, trained: CausalModel, base: ModelRef, folder: Path) -> dict[str, Any]:
    """Write model, tokenizer and history into `folder`, and return the metrics of the record."""
    steps = history(trainer.state.log_history)
    metrics = _metrics(trainer, trained, steps)
    if trainer.outcome:
        metrics["divergence"] = asdict(trainer.outcome)
    require_finite(trained)
    model = merged(trained)
    model.config.use_cache = getattr(AutoConfig.from_pretrained(base.path), "use_cache", True)
    model.save_pretrained(folder / "model")
    for pattern in _TOKENIZER_FILES:
        for path in base.directory.glob(pattern):
            shutil.copy2(path, folder / "model" / path.name)
    # The history has no times, so equal trainings publish equal files and later stages find their results.
    timeless = [{name: value for name, value in step.items() if name not in _TIMES} for step in steps]
    (folder / "history.json").write_text(json.dumps(timeless, indent=1, sort_keys=True))
    return metrics


def _metrics(trainer: DistillationTrainer, trained: CausalModel, steps: list[dict[str, int | float]]) -> dict[str, Any]:
    rows = trainer.rows
    done = trainer.state.global_step / trainer.state.max_steps  # below 1 if the retention control stopped the training
    num_tokens = round(done * rows.num_rows * rows.row_tokens)
    seconds = sum(step["train/seconds"] for step in steps)
    return {
        "steps": trainer.state.global_step,
        "rows": rows.num_rows,
        "blank_rows": rows.num_blank_rows,
        "padding_share": _padding_share(steps),
        "tokens": num_tokens,
        "train_seconds": round(seconds, 3),
        "tokens_per_second": round(num_tokens / seconds, 1),
        "flops": round(done * _flops(trainer, trained)),
        "peak_memory_bytes": peak_memory_bytes(),
        "num_parameters": sum(weight.numel() for weight in trained.parameters()),
        "num_trained_parameters": sum(weight.numel() for weight in trained.parameters() if weight.requires_grad),
        "final": {name: value for name, value in steps[-1].items() if name != "step"},
    }


def _padding_share(steps: Sequence[Mapping[str, int | float]]) -> float:
    """Return the share of padding in everything that the model read."""
    num_read = sum(step["train/places"] for step in steps)
    return round(sum(step["train/padding"] * step["train/places"] for step in steps) / num_read, 4)


def _flops(trainer: DistillationTrainer, model: CausalModel) -> int:
    """Return the operations of all steps: the student's on its tokens plus the teacher's on its own."""
    fsdp = cast(dict[str, Any], trainer.args.fsdp_config or {})
    recompute = bool(trainer.args.activation_checkpointing or fsdp.get("activation_checkpointing"))
    student_tokens = sum(stream.student_tokens for stream in trainer.rows.streams)
    flops = student_tokens * student_flops_per_token(model, recompute=recompute)
    if trainer.teacher is None or not trainer.teacher.runs:
        return flops
    streams = zip(trainer.streams, trainer.rows.streams, strict=True)
    teacher_tokens = sum(rows.num_tokens for stream, rows in streams if stream.needs_teacher)
    return flops + 2 * teacher_tokens * multiplied_weights(model)
