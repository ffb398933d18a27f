"""The artifact store: each artifact is built once, published atomically, and not found if damaged."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mixcpt.errors import ArtifactError
from mixcpt.store.artifacts import ArtifactStore, StageKey
from mixcpt.store.fingerprint import fingerprint

KEY = StageKey("corpus", 1, {"min_characters": 20}, {"file": "abc"})


def build(folder: Path) -> dict[str, int]:
    (folder / "part").mkdir()
    (folder / "part" / "data.txt").write_text("hello")
    return {"documents": 1}


def never(_: Path) -> dict[str, int]:
    raise AssertionError("the artifact was computed again")


def leftovers(store: ArtifactStore) -> list[Path]:
    return [path for path in (store.root / "corpus").iterdir() if path.name.startswith(".draft")]


def test_produce_publishes_files_record_and_marker(tmp_path: Path) -> None:
    ref = ArtifactStore(tmp_path).produce(KEY, build, lineage={"paths": ["a"]})
    assert ref.file("part/data.txt").read_text() == "hello"
    record = ref.record
    assert record["metrics"] == {"documents": 1}
    assert record["inputs"] == {"file": "abc"}
    assert record["lineage"] == {"paths": ["a"]}
    assert ref.digest == fingerprint(record["files"])
    assert not ref.reused


def test_produce_computes_the_same_key_only_once(tmp_path: Path) -> None:
    first = ArtifactStore(tmp_path).produce(KEY, build)
    again = ArtifactStore(tmp_path).produce(KEY, never)
    assert again == first
    assert again.reused


@pytest.mark.parametrize(
    "other",
    [
        StageKey("corpus", 2, KEY.settings, KEY.inputs),
        StageKey("corpus", 1, {"min_characters": 21}, KEY.inputs),
        StageKey("corpus", 1, KEY.settings, {"file": "abd"}),
        StageKey("corpus", 1, KEY.settings, {"other": "abc"}),
    ],
)
def test_fingerprint_changes_with_version_settings_and_inputs(other: StageKey) -> None:
    assert other.fingerprint != KEY.fingerprint


def test_lineage_decides_no_identity(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    store.produce(KEY, build, lineage={"paths": ["here"]})
    assert store.produce(KEY, never, lineage={"paths": ["there"]}).reused


@pytest.mark.parametrize("name", ["part/data.txt", "record.json", "COMPLETE"])
@pytest.mark.parametrize("damage", ["change", "remove"])
def test_find_refuses_a_damaged_artifact_and_produce_mends_it(tmp_path: Path, name: str, damage: str) -> None:
    store = ArtifactStore(tmp_path)
    victim = store.produce(KEY, build).file(name)
    if damage == "change":
        victim.write_text(victim.read_text().replace("e", "E") + " ")
    else:
        victim.unlink()
    assert store.find("corpus", KEY.fingerprint) is None
    assert store.list("corpus") == []
    mended = store.produce(KEY, build)
    assert store.find("corpus", KEY.fingerprint) == mended


def test_produce_leaves_nothing_behind_when_the_stage_fails(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, int]:
        (folder / "half.txt").write_text("half")
        raise ValueError("broken")

    store = ArtifactStore(tmp_path)
    with pytest.raises(ValueError, match="broken"):
        store.produce(KEY, fail)
    assert store.find("corpus", KEY.fingerprint) is None
    assert leftovers(store) == []


def test_produce_explains_a_full_disk_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill(folder: Path) -> dict[str, int]:
        (folder / "half.txt").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = ArtifactStore(tmp_path)
    with pytest.raises(ArtifactError, match="No space left on device"):
        store.produce(KEY, fill)
    assert store.find("corpus", KEY.fingerprint) is None
    assert leftovers(store) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """File system of 256 KiB, if this machine allows to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_produce_on_a_really_full_disk_raises_and_leaves_nothing_behind(small_disk: Path) -> None:
    def fill(folder: Path) -> dict[str, int]:
        (folder / "large.bin").write_bytes(bytes(1 << 20))
        return {}

    store = ArtifactStore(small_disk)
    with pytest.raises(ArtifactError, match=r"runtime\.store"):
        store.produce(KEY, fill)
    assert leftovers(store) == []
    assert store.produce(KEY, build).file("part/data.txt").read_text() == "hello"


HOLDER = """
    import sys, time
    from pathlib import Path
    from mixcpt.store.artifacts import ArtifactStore, StageKey
    def hold(folder: Path) -> dict:
        print("holding", flush=True)
        sys.stdin.readline()
        (folder / "data.txt").write_text("the holder's")
        return {}
    key = StageKey("corpus", 1, {"min_characters": 20}, {"file": "abc"})
    ArtifactStore(sys.argv[1]).produce(key, hold)
"""


@pytest.mark.parametrize("holder_ends", ["killed", "done"])
def test_produce_waits_for_another_process_and_takes_its_result_or_its_place(
    tmp_path: Path, holder_ends: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None and holder.stdout is not None
    assert holder.stdout.readline() == "holding\n"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ArtifactStore(tmp_path).produce, KEY, build)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.5)
        assert "another process is working on corpus" in caplog.text
        holder.communicate("go on\n") if holder_ends == "done" else holder.send_signal(signal.SIGKILL)
        holder.wait()
        ref = waiting.result(timeout=30)
    assert ref.reused is (holder_ends == "done")
    name, text = ("data.txt", "the holder's") if ref.reused else ("part/data.txt", "hello")
    assert ref.file(name).read_text() == text


def test_work_directory_survives_until_it_is_discarded(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    (store.work_directory(KEY) / "checkpoint").write_text("step 10")
    assert (ArtifactStore(tmp_path).work_directory(KEY) / "checkpoint").read_text() == "step 10"
    store.discard_work(KEY)
    assert not list(store.work_directory(KEY).iterdir())


def test_list_returns_artifacts_in_the_order_of_their_making(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    refs = [store.produce(StageKey("corpus", 1, {"seed": seed}), build) for seed in (3, 1, 2)]
    assert store.list("corpus") == refs
