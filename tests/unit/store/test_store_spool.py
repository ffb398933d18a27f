"""The spool: a reader gets complete measurements, even if the writer crashes."""

from pathlib import Path

from mixcpt.store.spool import Spool


def test_read_returns_what_was_logged_and_goes_on_from_the_offset(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "deep" / "spool.jsonl")
    spool.log(1, {"train/loss": 2.0}, total_steps=10)
    first, offset = spool.read()
    assert [(m.step, m.metrics, m.total_steps) for m in first] == [(1, {"train/loss": 2.0}, 10)]
    spool.log(2, {"train/loss": 1.5})
    second, end = spool.read(offset)
    assert [m.step for m in second] == [2]
    assert spool.read(end) == ([], end)


def test_read_of_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert Spool(tmp_path / "none.jsonl").read() == ([], 0)


def test_read_leaves_a_line_under_way_for_later(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    spool.log(1, {"a": 1.0})
    whole = spool.path.read_bytes()
    spool.path.write_bytes(whole + whole[:20])
    measurements, offset = spool.read()
    assert len(measurements) == 1
    assert offset == len(whole)


def test_read_skips_a_line_that_a_crash_cut_and_a_resume_ran_into(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    spool.log(1, {"a": 1.0})
    with spool.path.open("a") as stream:
        stream.write('{"step": 2, "metr')
    spool.log(2, {"a": 2.0})
    spool.log(3, {"a": 3.0})
    measurements, _ = spool.read()
    assert [m.step for m in measurements] == [1, 3]
