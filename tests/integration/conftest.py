"""Real servers, a real worker, and a corpus small enough to adapt to in seconds."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mixcpt.config import (
    AdaptConfig,
    AdviseConfig,
    AlignConfig,
    BaseModelConfig,
    BitsPerByteTask,
    CompareConfig,
    CurationConfig,
    EvaluateConfig,
    FilesSource,
    MixtureConfig,
    PretrainConfig,
    RuntimeConfig,
    SelectionConfig,
    SftConfig,
)
from mixcpt.servers.stack import Stack, free_port, running_stack
from mixcpt.store.fingerprint import fingerprint
from mixcpt.store.models import ModelRef
from tasks.checking import CHECKED

ROOT = Path(__file__).parents[2]
NAMES = ("Alda", "Boren", "Cira", "Dovan", "Elin", "Faro")
THINGS = ("iron", "gold", "river", "tower", "fox", "owl", "heron")
COLOURS = ("blue", "red", "green")


@dataclass(frozen=True)
class Site:
    """A running stack and the settings of a tiny adaptation."""

    stack: Stack
    store: Path
    """Folder of the stack's own store."""
    config: AdaptConfig
    started: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def config_at(self, store: Path) -> AdaptConfig:
        """Create a store with a prepared tracking database, and return the settings with that store."""
        store.mkdir(parents=True, exist_ok=True)
        if not (store / "mlflow.db").exists():
            shutil.copy(self.store / "mlflow.db", store / "mlflow.db")
        runtime = self.config.runtime.model_copy(update={"store": str(store), "experiment": store.name})
        return self.config.model_copy(update={"runtime": runtime})

    def start(self, config: AdaptConfig | AdviseConfig | CompareConfig) -> "subprocess.Popen[bytes]":
        """Start and return a flow process that adapts, compares or advises with these settings."""
        flows = {AdaptConfig: "adapt", AdviseConfig: "advise", CompareConfig: "compare"}
        request = Path(config.runtime.store) / "request.json"
        request.write_text(config.model_dump_json())
        command = [sys.executable, "-m", "flows", flows[type(config)], str(request)]
        checked = {CHECKED: fingerprint(config)}  # as `mixcpt run` does after its own checks
        environment = {**os.environ, "PREFECT_API_URL": self.stack.api, "OMP_NUM_THREADS": "1", **checked}
        with request.with_suffix(".log").open("ab") as log:
            self.started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
        return self.started[-1]

    def stop(self) -> None:
        """End the flow processes that a failed test left running."""
        for process in self.started:
            process.terminate()
            process.wait()

    def adapt(self, config: AdaptConfig | AdviseConfig | CompareConfig) -> float:
        """Run an adaptation, comparison or search, and return its duration in seconds."""
        started = time.monotonic()
        code = self.start(config).wait()
        assert code == 0, (Path(config.runtime.store) / "request.log").read_text()
        return time.monotonic() - started


def write_lines(path: Path, records: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def write_sources(folder: Path) -> tuple[FilesSource, ...]:
    documents = [
        {"text": f"{NAMES[i % 6]} likes the {COLOURS[i % 3]} {THINGS[i % 7]} . the emblem of {NAMES[i % 5]} is a fox ."}
        for i in range(30)
    ]
    instructions = [
        {"prompt": f"what colour is the {THINGS[i % 7]} of {NAMES[i % 6]} ?", "response": f"the {COLOURS[i % 3]} ."}
        for i in range(42)
    ]
    preferences = [
        {
            "prompt": f"where does {NAMES[i % 6]} lives ?",
            "chosen": f"in the {THINGS[i % 7]} tower .",
            "rejected": f"a {COLOURS[i % 3]} .",
        }
        for i in range(42)
    ]
    return (
        FilesSource(name="documents", pool="domain", paths=(write_lines(folder / "documents.jsonl", documents),)),
        FilesSource(
            name="questions", pool="instructions", paths=(write_lines(folder / "questions.jsonl", instructions),)
        ),
        FilesSource(name="pairs", pool="preferences", paths=(write_lines(folder / "pairs.jsonl", preferences),)),
    )


@pytest.fixture(scope="session")
def site(tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running Prefect server, MLflow server and worker, and settings whose pre-training takes some seconds."""
    folder = tmp_path_factory.mktemp("site")
    general = folder / "general.txt"
    general.write_text("the tower of Alda is blue . the fox likes the river .\n")
    config = AdaptConfig(
        name="tiny",
        base=BaseModelConfig(model=tiny_model.path),
        curation=CurationConfig(sources=write_sources(folder), min_characters=5, heldout_fraction=0.2),
        mixture=MixtureConfig(total_tokens=60_000, row_tokens=32),
        pretrain=PretrainConfig(batch_rows=4, micro_batch_rows=4, checkpoint_steps=50, log_steps=10),
        align=AlignConfig(
            selection=SelectionConfig(num_instructions=8, num_preferences=4, num_candidates=20),
            sft=SftConfig(epochs=1, batch_size=4),
        ),
        evaluate=EvaluateConfig(
            tasks=(
                BitsPerByteTask(name="domain_text", group="domain", heldout_pool="domain"),
                BitsPerByteTask(name="general_text", group="general", path=str(general)),
            ),
            headline_domain="domain_text",
            headline_general="general_text",
            num_resamples=50,
        ),
        runtime=RuntimeConfig(store=str(folder / "store"), num_threads=1),
    )
    with running_stack(folder / "store", free_port(), free_port(), presets=False) as (stack, _):
        site = Site(stack, folder / "store", config)
        yield site
        site.stop()


@pytest.fixture(scope="session")
def adapted(site: Site, tmp_path_factory: pytest.TempPathFactory) -> AdaptConfig:
    """Settings of an adaptation that ran without interruption."""
    config = site.config_at(tmp_path_factory.mktemp("runs") / "undisturbed")
    site.adapt(config)
    return config
