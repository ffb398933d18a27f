"""Stage calls as plain data, run by a worker process and reported to its parent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mixcpt.config import CurationConfig, FilesSource, RuntimeConfig
from mixcpt.errors import DataError, MixcptError, StageInterrupted
from mixcpt.process.supervisor import follow
from mixcpt.stages.jobs import Batch, Failed, Finished, Job, Output, Started, append_event, read_events
from mixcpt.stages.worker import lookup, may_be_stored, run_batch, worker_environment, worker_process
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef

CORPUS = ArtifactRef("corpus", "a" * 64, "b" * 64, "/store/corpus/aaaa")
MODEL = ModelRef("base", "/models/base", "c" * 64)


def curate_job(tmp_path: Path, text: str = '{"text": "a document that is long enough to be kept"}\n') -> Job:
    (tmp_path / "documents.jsonl").write_text(text)
    source = FilesSource(name="documents", pool="domain", paths=(str(tmp_path / "documents.jsonl"),))
    config = CurationConfig(sources=(source,), heldout_fraction=0.0)
    return Job("curate", "curate", config.model_dump(mode="json"), seed=0)


def batch_of(tmp_path: Path, *jobs: Job) -> Batch:
    batch = Batch.in_store(jobs, tmp_path / "store")
    batch.write()
    return batch


def test_batch_read_gives_what_was_written(tmp_path: Path) -> None:
    jobs = (
        Job("select", "select", {"strategy": "random"}, 3, {"corpus": CORPUS, "model": MODEL}, {"chat_template": ""}),
        Job("dpo", "dpo", {}, 3, {"selection": Output("select"), "model": Output("sft", as_model=True)}),
    )
    batch = batch_of(tmp_path, *jobs)
    assert Batch.read(batch.path) == batch


def test_batch_same_jobs_twice_share_no_folder(tmp_path: Path) -> None:
    job = curate_job(tmp_path)
    assert batch_of(tmp_path, job).folder != batch_of(tmp_path, job).folder


def test_job_resolved_takes_results_as_artifact_and_as_model() -> None:
    trained = ArtifactRef("model", "d" * 64, "e" * 64, "/store/model/dddd")
    job = Job("dpo", "dpo", {}, 0, {"selection": Output("select"), "model": Output("sft", as_model=True)})
    resolved = job.resolve({"select": CORPUS, "sft": trained})
    assert resolved.artifact("selection") == CORPUS
    assert resolved.model("model") == ModelRef("sft", "/store/model/dddd/model", "e" * 64)


def test_job_resolved_leaves_what_is_still_to_come() -> None:
    job = Job("dpo", "dpo", {}, 0, {"selection": Output("select"), "model": Output("sft", as_model=True)})
    resolved = job.resolve({"select": CORPUS})
    assert resolved.artifact("selection") == CORPUS
    assert resolved.inputs["model"] == Output("sft", as_model=True)


def test_events_half_written_line_is_left_for_the_next_look(tmp_path: Path) -> None:
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


def test_worker_deliberate_error_arrives_as_the_very_same(tmp_path: Path) -> None:
    batch = batch_of(tmp_path, curate_job(tmp_path, text="no json at all\n"))
    with worker_process(batch, RuntimeConfig(num_threads=1)) as process:
        code = follow(process)
    assert code == 1
    failed = read_events(batch.events)[0][-1]
    assert isinstance(failed, Failed)
    error = failed.to_error()
    assert type(error) is DataError
    assert "not one document of the domain" in error.problem
    assert "Traceback" not in batch.log.read_text()


@pytest.mark.parametrize(
    ("raised", "expected", "word"),
    [
        (OSError("the disk went away"), StageInterrupted, "checkpoint"),
        (MemoryError(), MixcptError, "micro_batch_rows"),
        (ValueError("a bug"), MixcptError, "same way"),
    ],
)
def test_worker_unexpected_error_is_retryable_only_where_another_try_may_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[MixcptError], word: str
) -> None:
    def fail(*arguments: object) -> ArtifactRef:
        raise raised

    monkeypatch.setitem(sys.modules["mixcpt.stages.worker"]._STAGES, "curate", fail)
    batch = batch_of(tmp_path, curate_job(tmp_path))
    with pytest.raises(type(raised)):
        run_batch(batch)
    (failed,) = read_events(batch.events)[0]
    assert isinstance(failed, Failed)
    error = failed.to_error()
    assert type(error) is expected
    assert word in error.hint


def test_lookup_of_a_new_job_gives_its_key_and_computes_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    key = lookup(curate_job(tmp_path), store)
    assert isinstance(key, StageKey)
    assert store.list("corpus") == []
    run_batch(batch_of(tmp_path, curate_job(tmp_path)))
    found = lookup(curate_job(tmp_path), store)
    assert isinstance(found, ArtifactRef)
    assert found.fingerprint == key.fingerprint


LOOKED_UP_BY_THREADS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.stages.jobs import Job
from mixcpt.stages.worker import lookup

job, store = Job.from_json(json.loads(sys.argv[1])), ArtifactStore(sys.argv[2])
with ThreadPoolExecutor(8) as threads:
    keys = list(threads.map(lambda _: lookup(job, store), range(8)))
print(len({key.fingerprint for key in keys}), "transformers" in sys.modules)
"""


def test_lookup_by_threads_at_the_same_time_imports_libraries_once(tmp_path: Path, tiny_model: ModelRef) -> None:
    job = Job("mix", "mix", {"method": {"kind": "lssd"}}, 0, {"corpus": CORPUS, "base": tiny_model})
    command = [sys.executable, "-c", LOOKED_UP_BY_THREADS, json.dumps(job.to_json()), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("1 True\n", 0), done.stderr


def test_stored_records_rule_a_job_out_by_its_inputs_alone(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    store.produce(StageKey("mixture", 1, {}, {"corpus": CORPUS.digest, "tokenizer": "t"}), lambda folder: {})
    known = Job("mix", "mix", {}, 0, {"corpus": CORPUS, "base": MODEL})
    other = Job("mix", "mix", {}, 0, {"corpus": ArtifactRef("corpus", "0", "1", ""), "base": MODEL})
    assert may_be_stored(known, store)
    assert not may_be_stored(other, store)


def test_worker_threads_are_set_only_where_asked_for() -> None:
    assert worker_environment(3)["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in worker_environment(0)


def test_batch_file_is_plain_json(tmp_path: Path) -> None:
    assert json.loads(batch_of(tmp_path, curate_job(tmp_path)).path.read_text())["jobs"][0]["stage"] == "curate"
