"""Properties of TRL that we rely on, to detect changes in its next versions."""

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from huggingface_hub.utils import _telemetry
from trl import DPOConfig, SFTConfig

from mixcpt.align.chat import encode_chat, load_chat_tokenizer
from mixcpt.align.trl_adapter import make_trainer, stage_history, stage_metrics
from mixcpt.config import DpoConfig, OptimizerConfig, SftConfig
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import NullTracker
from mixcpt.train.optimizer import rate_factor

QUESTION = "who keeps the fox ?"


@pytest.fixture
def telemetry_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings that turn off the telemetry of TRL on a build machine."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def test_trl_minor_version_is_the_one_that_was_checked() -> None:
    version = importlib.metadata.version("trl")
    assert version.startswith("1.16."), (
        f"TRL is {version}: check mixcpt/align/trl_adapter.py against it, then raise this"
    )


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (SFTConfig, {"max_length", "packing", "dataset_kwargs"}),
        (DPOConfig, {"max_length", "beta", "loss_type", "precompute_ref_log_probs"}),
    ],
)
def test_trl_config_has_the_fields_that_we_set(config: type, names: set[str]) -> None:
    missing = names - {field.name for field in dataclasses.fields(config)}
    assert not missing, f"{config.__name__} has no {sorted(missing)} any more"


def test_trl_sft_takes_our_tokens_and_labels_as_they_are(tiny_model: ModelRef, tmp_path: Path) -> None:
    tokenizer = load_chat_tokenizer(tiny_model, "")
    samples = [encode_chat(tokenizer, QUESTION, text) for text in ("Alda .", "Alda keeps the fox .")]
    trainer = make_trainer(
        SftConfig(batch_size=2), [[sample] for sample in samples], load_model(tiny_model), tokenizer,
        folder=tmp_path, seed=0, tracker=NullTracker(),
    )  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(2)])
    ignored = [-100] * len(samples[0].prompt_ids)
    assert batch["input_ids"].tolist() == [[*samples[0].input_ids, 3, 3, 3], samples[1].input_ids]
    assert batch["labels"].tolist() == [
        [*ignored, *samples[0].response_ids, -100, -100, -100], [*ignored, *samples[1].response_ids],
    ]  # fmt: skip
    assert batch["attention_mask"].sum(dim=1).tolist() == [sample.num_tokens for sample in samples]
    assert not trainer.args.bf16  # TRL's default is bf16 with gradient checkpointing
    assert not trainer.model.is_gradient_checkpointing
    assert trainer.args.max_grad_norm == 1.0


def test_trl_dpo_takes_our_tokens_and_measures_the_reference_first(tiny_model: ModelRef, tmp_path: Path) -> None:
    tokenizer = load_chat_tokenizer(tiny_model, "")
    pair = (encode_chat(tokenizer, QUESTION, "Alda ."), encode_chat(tokenizer, QUESTION, "the river"))
    trainer = make_trainer(
        DpoConfig(batch_size=1, beta=0.3), [pair], load_model(tiny_model), tokenizer,
        folder=tmp_path, seed=0, tracker=NullTracker(),
    )  # fmt: skip
    row = trainer.train_dataset[0]
    assert (row["prompt_ids"], row["chosen_ids"]) == (pair[0].prompt_ids, pair[0].response_ids)
    assert row["rejected_ids"] == pair[1].response_ids
    assert {"ref_chosen_logps", "ref_rejected_logps"} <= set(row)
    assert trainer.ref_model is None
    assert trainer.beta == 0.3
    assert not trainer.args.bf16
    assert not trainer.model.is_gradient_checkpointing


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_trl_takes_its_steps_at_our_rates(tiny_model: ModelRef, tmp_path: Path, stage: str) -> None:
    tokenizer = load_chat_tokenizer(tiny_model, "")
    pairs = [(encode_chat(tokenizer, QUESTION, "Alda ."), encode_chat(tokenizer, QUESTION, "the river"))] * 8
    settings = OptimizerConfig(learning_rate=1e-3, schedule="wsd", warmup_fraction=0.25, decay_fraction=0.5)
    options: dict[str, Any] = {"folder": tmp_path, "seed": 0, "tracker": NullTracker()}
    model = load_model(tiny_model)
    config_class = SftConfig if stage == "sft" else DpoConfig
    answers = [[chosen] for chosen, _ in pairs] if stage == "sft" else pairs
    config = config_class(optimizer=settings, batch_size=1, epochs=1)
    trainer = make_trainer(config, answers, model, tokenizer, **options)
    trainer.train()
    rates = [entry[f"{stage}/learning_rate"] for entry in stage_history(trainer)]
    assert rates == pytest.approx([1e-3 * rate_factor(step, 8, settings) for step in range(8)])


def test_trl_trainers_send_no_telemetry(tiny_model: ModelRef, tmp_path: Path, telemetry_allowed: None) -> None:
    tokenizer = load_chat_tokenizer(tiny_model, "")
    make_trainer(
        SftConfig(), [[encode_chat(tokenizer, QUESTION, "Alda .")]], load_model(tiny_model), tokenizer,
        folder=tmp_path, seed=0, tracker=NullTracker(),
    )  # fmt: skip
    assert _telemetry._TELEMETRY_QUEUE.empty()
    assert _telemetry._TELEMETRY_THREAD is None


def test_stage_metrics_keeps_known_names_under_the_stage() -> None:
    logged = {"train/loss": 0.5, "train/rewards/margins": 2.0, "train/logits/chosen": 9.0, "step": 3}
    assert stage_metrics(logged, "dpo") == {"dpo/loss": 0.5, "dpo/margin": 2.0}
