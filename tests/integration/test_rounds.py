"""Readaptation on a running stack: started by event or by hand, decided by gates or by a person's approval."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID
from zlib import crc32

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from prefect.client.schemas.objects import StateType

from benchmarks.running import ROOT, Site, running_site
from mixcpt.closed_world.documents import stranger_documents
from mixcpt.config import Gate, ReadaptConfig, load_settings
from mixcpt.records.round import Round, load_rounds
from mixcpt.store.artifacts import ArtifactStore

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]
SMALL = ["adapt.mixture.total_tokens=8000", "adapt.evaluate.tasks.0.limit=6", "adapt.evaluate.tasks.1.limit=6"]
SETTINGS = load_settings(ReadaptConfig, ROOT / "deployments" / "rounds" / "closed-world.yaml", SMALL)
ANYTHING = Gate(name="anything", tasks="all", rule="likely", at_least=-100.0)
A_MIRACLE = Gate(name="a-miracle", tasks="new", rule="sure", at_least=100.0)


@dataclass(frozen=True)
class Rounds:
    """A running stack whose rounds take seconds."""

    site: Site
    folder: Path

    def deploy(self, gate: Gate, **changes: object) -> None:
        """Deploy the rounds with one gate by `mixcpt deploy --readapt`."""
        settings = SETTINGS.model_copy(update={"gates": (gate,), **changes})
        path = self.folder / "rounds.yaml"
        path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
        self.site.mixcpt("deploy", "--readapt", str(path))

    def add(self, name: str) -> str:
        """Register forty documents in the words of the base by `mixcpt corpus add`, and return its output."""
        path = self.folder / f"{name}.jsonl"
        texts = stranger_documents(seed=crc32(name.encode()), count=40)
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return self.site.mixcpt("corpus", "add", str(path))

    def by_event(self, name: str) -> UUID:
        """Register a corpus and return the flow run that this starts."""
        since = datetime.now(UTC)
        assert "notified the Prefect server" in self.add(name)
        return self.site.started_since(since)

    @property
    def finished(self) -> list[Round]:
        return load_rounds(ArtifactStore(self.site.store), SETTINGS.name)

    @property
    def champion(self) -> str:
        """Number of the champion's version; empty if there is none."""
        registry = MlflowClient(self.site.stack.mlflow)
        try:
            return str(registry.get_model_version_by_alias(SETTINGS.adapt.runtime.registered_model, "champion").version)
        except MlflowException:
            return ""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rounds]:
    folder = tmp_path_factory.mktemp("rounds")
    with running_site(folder / "store") as site:
        yield Rounds(site, folder)


def test_champion_is_moved_by_gates_and_approval_and_rolled_back(running: Rounds) -> None:
    site = running.site
    running.deploy(ANYTHING)
    site.wait(site.start())
    assert [(round_.new, round_.decision) for round_ in running.finished] == [(("world-0",), "promoted")]
    assert running.champion == "1"

    site.wait(running.by_event("Upton"))
    assert (running.finished[-1].new, running.finished[-1].earlier) == (("Upton",), ("world-0",))
    assert running.champion == "2"
    assert "is not notified" in running.add("Upton")
    nothing_new = site.wait(site.start())
    assert (nothing_new.state and nothing_new.state.name, len(running.finished)) == ("NothingNew", 2)

    running.deploy(A_MIRACLE)
    site.wait(running.by_event("Dale"))
    assert running.finished[-1].decision == "refused"
    assert "a-miracle fails on" in running.finished[-1].reason
    assert running.champion == "2"

    running.deploy(ANYTHING, approval="human", again=("Dale",))
    paused = site.start()
    site.wait(paused, StateType.PAUSED)
    assert site.answer(paused, promote=True) == "REJECT"  # without a name
    assert running.champion == "2"
    assert site.answer(paused, promote=True, by="the owner") == "ACCEPT"
    site.wait(paused)
    assert (running.finished[-1].new, running.finished[-1].decided_by) == (("Dale",), "the owner")
    assert running.finished[-1].reason == "Decided by the owner, without a reason."
    promoted = running.finished[-1].version
    assert running.champion == promoted not in ("", "2")
    assert "Dale" in site.mixcpt("lineage", f"{SETTINGS.adapt.runtime.registered_model}@champion")

    site.mixcpt("rollback", "--because", "answers too long")
    assert running.champion == "2"


def test_corpora_registered_during_a_round_are_learned_exactly_once(running: Rounds) -> None:
    running.deploy(ANYTHING)
    before = len(running.finished)
    first = running.by_event("Ashby")
    since = datetime.now(UTC)
    running.add("Elmet")
    running.site.wait(first)
    running.site.wait(running.site.started_since(since))
    learned = [name for round_ in running.finished[before:] for name in round_.new]
    assert sorted(learned) == ["Ashby", "Elmet"]
