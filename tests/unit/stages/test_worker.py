"""Jobs as plain data, run by a worker process that reports events to its parent."""

import json
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from mixcpt.config import CurationConfig, FilesSource, RuntimeConfig
from mixcpt.errors import ConfigError, DataError, MixcptError, StageInterrupted
from mixcpt.process.supervisor import follow
from mixcpt.stages.jobs import (
    Batch,
    Failed,
    Finished,
    Input,
    Job,
    JobOptions,
    Output,
    Started,
    append_event,
    read_events,
)
from mixcpt.stages.launching import worker_environment, worker_process
from mixcpt.stages.registry import STAGES, Stage, find_stage, lookup
from mixcpt.stages.worker import run_batch
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef

CORPUS = ArtifactRef("corpus", "a" * 64, "b" * 64, "/store/corpus/aaaa")
MODEL = ModelRef("base", "/models/base", "c" * 64)


def curate_job(tmp_path: Path, text: str = '{"text": "a document that is long enough to be kept"}\n') -> Job:
    (tmp_path / "documents.jsonl").write_text(text)
    source = FilesSource(name="documents", pool="domain", paths=(str(tmp_path / "documents.jsonl"),))
    config = CurationConfig(sources=(source,), heldout_fraction=0.0)
    return Job(name="curate", stage="curate", config=config.model_dump(mode="json"), seed=0)


def dpo_job() -> Job:
    inputs: dict[str, Input] = {"selection": Output("select"), "model": Output("sft", as_model=True)}
    return Job(name="dpo", stage="dpo", config={}, seed=0, inputs=inputs)


def batch_of(tmp_path: Path, *jobs: Job) -> Batch:
    batch = Batch.in_store(jobs, tmp_path / "store")
    batch.write()
    return batch


def test_batch_read_equals_the_written_batch(tmp_path: Path) -> None:
    jobs = (
        Job(
            name="select",
            stage="select",
            config={"strategy": "random"},
            seed=3,
            inputs={"corpus": CORPUS, "model": MODEL},
            options=JobOptions(chat_template="plain"),
        ),
        dpo_job(),
    )
    batch = batch_of(tmp_path, *jobs)
    assert Batch.read(batch.path) == batch


def test_batch_same_jobs_twice_share_no_folder(tmp_path: Path) -> None:
    job = curate_job(tmp_path)
    assert batch_of(tmp_path, job).folder != batch_of(tmp_path, job).folder


def test_job_resolved_has_results_as_artifact_and_as_model() -> None:
    trained = ArtifactRef("model", "d" * 64, "e" * 64, "/store/model/dddd")
    resolved = dpo_job().resolve({"select": CORPUS, "sft": trained})
    assert resolved.artifact("selection") == CORPUS
    assert resolved.model("model") == ModelRef("sft", "/store/model/dddd/model", "e" * 64)


def test_job_resolved_keeps_placeholders_of_missing_results() -> None:
    resolved = dpo_job().resolve({"select": CORPUS})
    assert resolved.artifact("selection") == CORPUS
    assert resolved.inputs["model"] == Output("sft", as_model=True)


def test_events_half_written_line_is_left_for_the_next_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    started = Started("pretrain", "model", "f" * 64, "/spool")
    finished = Finished("pretrain", CORPUS)
    append_event(path, started)
    append_event(path, finished)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    events, offset = read_events(path)
    assert events == [started]
    path.write_bytes(whole)
    assert read_events(path, offset)[0] == [finished]


def test_worker_process_publishes_and_reports(tmp_path: Path) -> None:
    batch = batch_of(tmp_path, curate_job(tmp_path))
    with worker_process(batch, RuntimeConfig(num_threads=1)) as process:
        code = follow(process)
    assert code == 0, batch.log.read_text()
    started, finished = read_events(batch.events)[0]
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert ArtifactStore(tmp_path / "store").find("corpus", started.fingerprint) == finished.ref


def test_worker_second_run_reports_the_stored_artifact_without_starting(tmp_path: Path) -> None:
    job = curate_job(tmp_path)
    run_batch(batch_of(tmp_path, job))
    again = batch_of(tmp_path, job)
    run_batch(again)
    (finished,) = read_events(again.events)[0]
    assert isinstance(finished, Finished)
    assert finished.ref.reused


def test_worker_deliberate_error_arrives_unchanged(tmp_path: Path) -> None:
    batch = batch_of(tmp_path, curate_job(tmp_path, text="no json at all\n"))
    with worker_process(batch, RuntimeConfig(num_threads=1)) as process:
        code = follow(process)
    assert code == 1
    failed = read_events(batch.events)[0][-1]
    assert isinstance(failed, Failed)
    error = failed.to_error()
    assert type(error) is DataError
    assert "no document of the domain" in error.problem
    assert "Traceback" not in batch.log.read_text()


@pytest.mark.parametrize(
    ("raised", "expected", "word"),
    [
        (OSError("the disk went away"), StageInterrupted, "checkpoint"),
        (MemoryError(), MixcptError, "micro_batch_rows"),
        (ValueError("a bug"), MixcptError, "same way"),
    ],
)
def test_worker_unexpected_error_is_retryable_only_if_a_retry_may_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[MixcptError], word: str
) -> None:
    def fail(*arguments: object) -> ArtifactRef:
        raise raised

    monkeypatch.setattr("mixcpt.curation.stage.run_job", fail)
    batch = batch_of(tmp_path, curate_job(tmp_path))
    with pytest.raises(type(raised)):
        run_batch(batch)
    (failed,) = read_events(batch.events)[0]
    assert isinstance(failed, Failed)
    error = failed.to_error()
    assert type(error) is expected
    assert word in error.hint


def test_lookup_of_a_new_job_returns_its_key_and_computes_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    key = lookup(curate_job(tmp_path), store)
    assert isinstance(key, StageKey)
    assert store.list("corpus") == []
    run_batch(batch_of(tmp_path, curate_job(tmp_path)))
    ref = lookup(curate_job(tmp_path), store)
    assert isinstance(ref, ArtifactRef)
    assert ref.fingerprint == key.fingerprint


def test_job_options_written_by_an_earlier_version_are_read() -> None:
    assert JobOptions.from_json({"form": "plain", "documents": "in the prompt"}) == JobOptions(with_documents=True)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_functions_of_every_stage_exist(stage: Stage) -> None:
    assert callable(resolve_name(stage.key))
    assert callable(resolve_name(stage.run))


def test_keys_of_all_stages_import_neither_torch_nor_transformers() -> None:
    imports = "; ".join(f"pkgutil.resolve_name({stage.key!r})" for stage in STAGES)
    code = f"import sys, pkgutil; {imports}; print({{'torch', 'transformers'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr


def test_unknown_stage_error_lists_the_existing_stages() -> None:
    with pytest.raises(ConfigError, match="'pretrian'; the stages are curate, plan, rewrite, mix"):
        find_stage("pretrian")


def test_worker_threads_are_set_only_if_configured() -> None:
    assert worker_environment(3)["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in worker_environment(0)


def test_batch_file_is_plain_json(tmp_path: Path) -> None:
    assert json.loads(batch_of(tmp_path, curate_job(tmp_path)).path.read_text())["jobs"][0]["stage"] == "curate"
