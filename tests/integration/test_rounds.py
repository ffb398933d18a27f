"""Re-adaptation on a running stack, as people ask for it: by event, by hand, behind gates, by somebody's answer."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from prefect.client.schemas.objects import StateType

from benchmarks.running import ROOT, Site, running_site
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
        """Deploys the rounds with one gate, as `mixcpt deploy --readapt` does."""
        settings = SETTINGS.model_copy(update={"gates": (gate,), **changes})
        path = self.folder / "rounds.yaml"
        path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
        self.site.mixcpt("deploy", "--readapt", str(path))

    def add(self, name: str) -> str:
        """Returns what `mixcpt corpus add` says of forty documents about a village."""
        path = self.folder / f"{name}.jsonl"
        texts = [f"In {name} the house {i} is {i * i} feet high. Its door is {i} feet wide." for i in range(40)]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return self.site.mixcpt("corpus", "add", str(path))

    def by_event(self, name: str) -> UUID:
        """Returns the round that a new corpus has started."""
        asked = datetime.now(UTC)
        assert "notified the Prefect server" in self.add(name)
        return self.site.started_since(asked)

    @property
    def made(self) -> list[Round]:
        return load_rounds(ArtifactStore(self.site.store), SETTINGS.name)

    @property
    def champion(self) -> str:
        """The number of the version that serves; empty where none does."""
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


def test_champion_moves_by_gates_by_answers_and_back(running: Rounds) -> None:
    site = running.site
    running.deploy(ANYTHING)
    site.wait(site.start())
    assert [(each.new, each.decision) for each in running.made] == [(("world-0",), "promoted")]
    assert running.champion == "1"

    site.wait(running.by_event("Upton"))
    assert (running.made[-1].new, running.made[-1].earlier) == (("Upton",), ("world-0",))
    assert running.champion == "2"
    assert "is not notified" in running.add("Upton")
    nothing_new = site.wait(site.start())
    assert (nothing_new.state and nothing_new.state.name, len(running.made)) == ("NothingNew", 2)

    running.deploy(A_MIRACLE)
    site.wait(running.by_event("Dale"))
    assert running.made[-1].decision == "refused"
    assert "a-miracle fails on" in running.made[-1].reason
    assert running.champion == "2"

    running.deploy(ANYTHING, approval="human", again=("Dale",))
    paused = site.start()
    site.wait(paused, StateType.PAUSED)
    assert site.answer(paused, promote=True) == "REJECT"  # without a name
    assert running.champion == "2"
    assert site.answer(paused, promote=True, by="the owner") == "ACCEPT"
    site.wait(paused)
    assert (running.made[-1].new, running.made[-1].decided_by) == (("Dale",), "the owner")
    assert running.made[-1].reason == "Decided by the owner, without a reason."
    promoted = running.made[-1].version
    assert running.champion == promoted not in ("", "2")
    assert "Dale" in site.mixcpt("lineage", f"{SETTINGS.adapt.runtime.registered_model}@champion")

    site.mixcpt("rollback", "--because", "answers too long")
    assert running.champion == "2"


def test_corpora_that_arrive_while_a_round_is_at_work_are_learned_once_each(running: Rounds) -> None:
    running.deploy(ANYTHING)
    before = len(running.made)
    first = running.by_event("Ashby")
    asked = datetime.now(UTC)
    running.add("Elmet")
    running.site.wait(first)
    running.site.wait(running.site.started_since(asked))
    learned = [name for each in running.made[before:] for name in each.new]
    assert sorted(learned) == ["Ashby", "Elmet"]
