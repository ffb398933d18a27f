"""Tools that show a training in addition to MLflow: folders in the store, no network, no secrets, no harm."""

import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mixcpt.config import AdaptConfig
from mixcpt.process.reporters import REPORTERS, reporting, wanted_reporters
from mixcpt.stages.chain import alignment_jobs, pretraining_jobs
from mixcpt.stages.jobs import Job, Output
from mixcpt.store.models import ModelRef
from mixcpt.train import reporters
from mixcpt.train.reporters import reporter_callbacks

SECRETS = {"HF_TOKEN": "hf-sesame", "WANDB_API_KEY": "k" * 20 + "sesame" * 4, "MLFLOW_TRACKING_PASSWORD": "ml-sesame"}


def needs(name: str) -> Any:
    return pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path / "checkpoints"), report_to="none", use_cpu=True)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    yield


def train(arguments: TrainingArguments, losses: dict[int, float]) -> None:
    """Send the events of a training to the callbacks of the present stage."""
    state, control = TrainerState(is_world_process_zero=True), TrainerControl()
    for callback in reporter_callbacks():
        callback.on_train_begin(arguments, state, control)
        for step, loss in losses.items():
            state.global_step = step
            callback.on_log(arguments, state, control, logs={"loss": loss})
        callback.on_train_end(arguments, state, control)


def written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def jobs(config: AdaptConfig) -> list[Job]:
    class Inputs:
        def __init__(self) -> None:
            self.config, self.base = config, ModelRef("base", "base", "b" * 64)

    corpus = Output("curate")
    return [*pretraining_jobs(Inputs(), corpus), *alignment_jobs(Inputs(), corpus, Output("pretrain", as_model=True))]


def test_every_training_reports_and_no_other_stage() -> None:
    config = AdaptConfig.model_validate({"name": "mine", "tracking": {"also": ["tensorboard"]}})
    options = {job.name: job.options for job in jobs(config)}
    assert {name for name, one in options.items() if one.reporters} == {"pretrain", "sft", "dpo"}
    assert options["sft"].run == "mine"
    assert Job.from_json(jobs(config)[-1].to_json()).options == options["dpo"]


def test_nothing_is_reported_by_default() -> None:
    assert [job.options.to_json() for job in jobs(AdaptConfig()) if job.name == "pretrain"] == [{}]
    assert reporter_callbacks() == []


def test_variables_exist_only_during_the_stage_and_keep_the_choices_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_NAME", "another")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    before = dict(os.environ)
    with reporting(["tensorboard", "wandb"], tmp_path, run="mine", stage="sft", fingerprint="f" * 64):
        assert wanted_reporters() == ["tensorboard", "wandb"]
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard" / "mine" / f"sft-{'f' * 16}")
        assert (os.environ["WANDB_MODE"], os.environ["WANDB_PROJECT"]) == ("online", "mixcpt")
        assert os.environ["WANDB_NAME"] == "mine sft"
    assert dict(os.environ) == before
    assert REPORTERS not in os.environ


@pytest.mark.parametrize("event", ["on_train_begin", "on_log", "on_train_end"])
def test_error_of_a_library_ends_its_reports_and_not_the_training(
    event: str, arguments: TrainingArguments, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no space left")

    broken = type("Broken", (TrainerCallback,), {event: fail})
    monkeypatch.setattr(reporters, "get_reporting_integration_callbacks", lambda names: [broken])
    monkeypatch.setenv(REPORTERS, "tensorboard")
    with caplog.at_level(logging.WARNING, "mixcpt.train"):
        train(arguments, {1: 2.0, 2: 1.0})
    assert [record.getMessage() for record in caplog.records] == [
        "tensorboard gets no more measurements of this stage: no space left"
    ]


@needs("tensorboard")
def test_tensorboard_gets_the_measurements_of_every_attempt(
    tmp_path: Path, arguments: TrainingArguments, secrets: None
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with reporting(["tensorboard"], tmp_path, run="mine", stage="pretrain", fingerprint="a" * 64):
        train(arguments, {10: 2.0})
        train(arguments, {20: 1.0})
    (folder,) = (tmp_path / "tensorboard" / "mine").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(10, 2.0), (20, 1.0)]
    assert b"sesame" not in written(tmp_path)


@needs("wandb")
def test_wandb_writes_a_run_per_stage_without_network(
    tmp_path: Path, arguments: TrainingArguments, secrets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for stage, identity in (("pretrain", "a"), ("sft", "b")):
        with reporting(["wandb"], tmp_path, run="mine", stage=stage, fingerprint=identity * 64):
            train(arguments, {10: 2.0})
    runs = sorted(path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert runs == ["a" * 16, "b" * 16]
    assert all(list(path.glob("*.wandb")) for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert b"sesame" not in written(tmp_path)
