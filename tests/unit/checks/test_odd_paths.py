"""Paths that name no ordinary file are refused by sources, questions and models, and nothing waits for a pipe."""

import os
import shutil
from pathlib import Path

import pytest

from mixcpt.config import BaseModelConfig, FilesSource, MultipleChoiceTask
from mixcpt.curation.files import find_files
from mixcpt.errors import DataError, ModelError
from mixcpt.evaluate.asking.files import read_file, task_file
from mixcpt.store.models import CLOSED_WORLD_PATH, find_model

_ODD = ("~no-such-user-of-mixcpt/a.jsonl", "x" * 300 + ".jsonl", "a\x00.jsonl", "a/" * 3000 + "b.jsonl")


@pytest.mark.parametrize("path", _ODD, ids=["home", "long", "nul", "deep"])
def test_source_of_odd_path_is_a_problem_with_its_key(path: str) -> None:
    found = find_files(FilesSource(name="odd", pool="domain", paths=(path,)), "curation.sources[0]")
    assert found.problems[0].startswith("curation.sources[0].paths[0]: ")


@pytest.mark.parametrize("path", _ODD, ids=["home", "long", "nul", "deep"])
def test_task_of_odd_path_is_refused(path: str) -> None:
    task = MultipleChoiceTask(name="odd", group="domain", path=path)
    with pytest.raises(DataError):
        read_file(task, task_file(task))


def test_task_of_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    task = MultipleChoiceTask(name="odd", group="domain", path=str(tmp_path / "pipe.jsonl"))
    with pytest.raises(DataError, match="is a pipe"):
        read_file(task, task_file(task))


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_model_with_a_file_that_is_none_is_refused_at_once(kind: str, name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CLOSED_WORLD_PATH, tmp_path / "model"))
    file = folder / name
    file.unlink()
    {"pipe": lambda: os.mkfifo(file), "folder": file.mkdir, "loop": lambda: file.symlink_to(file)}[kind]()
    with pytest.raises(ModelError, match="is no file"):
        find_model(BaseModelConfig(model=str(folder)))
