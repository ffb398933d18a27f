"""Guards of SFT and DPO: values that are not finite, and a loss that stays far above its start."""

import json
from pathlib import Path

import pytest
from transformers import Trainer

from mixcpt.align.chat import encode_chat, load_chat_tokenizer
from mixcpt.align.trl_adapter import make_trainer
from mixcpt.config import DpoConfig, OptimizerConfig, SftConfig
from mixcpt.errors import TrainingFailed
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import NullTracker
from mixcpt.train.guarded import FAILED_BATCH

SETTINGS = [SftConfig(batch_size=2, epochs=4), DpoConfig(batch_size=2, epochs=4)]


def trainer_of(config: SftConfig | DpoConfig, rate: float, base: ModelRef, folder: Path, **changes: str) -> Trainer:
    tokenizer = load_chat_tokenizer(base, "")
    answers = ["Alda .", "the river", "Boren keeps the owl .", "Cira likes gold ."]
    texts = [encode_chat(tokenizer, "who keeps the fox ?", answer) for answer in answers]
    samples = [
        [text] if isinstance(config, SftConfig) else [text, other]
        for text, other in zip(texts, texts[::-1], strict=True)
    ]
    changed = config.model_copy(update={"optimizer": OptimizerConfig(learning_rate=rate), **changes})
    return make_trainer(
        changed, samples, load_model(base), tokenizer, folder=folder / "checkpoints", seed=0, tracker=NullTracker()
    )


@pytest.mark.parametrize("config", SETTINGS, ids=["sft", "dpo"])
@pytest.mark.parametrize(("rate", "problem"), [(1e20, "not finite at step"), (1.0, "diverged at step .* the loss is")])
def test_alignment_that_breaks_its_model_stops_and_shows_its_samples(
    config: SftConfig | DpoConfig, rate: float, problem: str, tiny_model: ModelRef, tmp_path: Path
) -> None:
    with pytest.raises(TrainingFailed, match=problem) as failed:
        trainer_of(config, rate, tiny_model, tmp_path).train()
    lines = (tmp_path / FAILED_BATCH).read_text().splitlines()
    assert all(json.loads(line)["text"] for line in lines)
    assert f"{len(lines)} samples; their text is in {tmp_path / FAILED_BATCH}" in str(failed.value)


@pytest.mark.parametrize("config", SETTINGS, ids=["sft", "dpo"])
def test_divergence_of_alignment_is_ignored_if_the_setting_says_so(
    config: SftConfig | DpoConfig, tiny_model: ModelRef, tmp_path: Path
) -> None:
    trainer_of(config, 1.0, tiny_model, tmp_path, divergence="ignore").train()


@pytest.mark.parametrize("config", SETTINGS, ids=["sft", "dpo"])
def test_alignment_at_its_default_rate_does_not_diverge(
    config: SftConfig | DpoConfig, tiny_model: ModelRef, tmp_path: Path
) -> None:
    trainer_of(config, config.optimizer.learning_rate, tiny_model, tmp_path).train()
