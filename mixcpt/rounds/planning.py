"""What the next round reads, from which model it starts, and what it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mixcpt.config import AdaptConfig, BitsPerByteTask, CorpusConfig, CurationConfig, ReadaptConfig
from mixcpt.curation import open_sources
from mixcpt.rounds.registration import NothingNew, Registered, register, registered
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.lineage import Catalogue
from mixcpt.store.models import ModelRef


@dataclass(frozen=True)
class RoundPlan:
    """A round before it is run."""

    number: int
    config: AdaptConfig
    new: tuple[str, ...]
    """Corpora that it learns."""
    earlier: tuple[str, ...]
    """Corpora that the model it starts from has learned, or that a round from the base learns anew."""
    tasks: dict[str, tuple[str, ...]]
    """Names of the tasks about each corpus; under the empty name those about none."""

    def tasks_about(self, corpora: Sequence[str]) -> tuple[str, ...]:
        """Returns the names of the tasks about some corpora."""
        return tuple(task for corpus in corpora for task in self.tasks[corpus])


def register_own(config: AdaptConfig, store: ArtifactStore) -> None:
    """Registers what the domain sources of the settings have: a folder may hold more than at the last round."""
    questions = [
        task
        for task in config.evaluate.tasks
        if task.group == "domain" and not (isinstance(task, BitsPerByteTask) and not task.path)
    ]
    for source in (each for each in config.curation.sources if each.pool == "domain"):
        corpus = CorpusConfig(source=source, tasks=tuple(questions))
        try:
            register(corpus, store, heldout_fraction=config.curation.heldout_fraction, seed=config.data_seed)
        except NothingNew:
            continue
        finally:
            questions = []  # with the first of the sources: asked once


def plan_round(
    config: ReadaptConfig, champion: ModelRef | None, refused: Sequence[str], number: int, store: ArtifactStore
) -> RoundPlan | None:
    """Returns the next round, or None where everything that is registered has been learned or refused.

    Args:
        config: What all rounds share.
        champion: The model that serves; None before the first round.
        refused: Names of corpora whose candidate was refused: no round tries them again by itself.
        number: Of the round, from 1.
        store: Where corpora and models are.
    """
    deliveries = registered(store)
    learned = _learned(deliveries, champion, store)
    new = [each for each in deliveries if each.name not in {*learned, *refused}]
    if not new:
        return None
    earlier = [each for each in deliveries if each.name in learned]
    settings = _settings(config, champion, new, earlier, number)
    tasks = {each.name: tuple(task.name for task in each.tasks) for each in (*new, *earlier)}
    general = tuple(task.name for task in config.adapt.evaluate.tasks if task.group == "general")
    return RoundPlan(
        number,
        AdaptConfig.model_validate(settings),
        new=tuple(each.name for each in new),
        earlier=tuple(each.name for each in earlier),
        tasks={**tasks, "": general},
    )


def _learned(deliveries: Sequence[Registered], champion: ModelRef | None, store: ArtifactStore) -> set[str]:
    """Returns the names of the corpora that a model has read, by the content of what it was made of."""
    if champion is None:
        return set()
    catalogue = Catalogue(store)
    made = catalogue.find(champion.digest)
    read = set(catalogue.texts_read(made).values()) if made else set()
    sources = open_sources(CurationConfig(sources=tuple(each.source for each in deliveries)))
    return {source.config.name for source in sources if source.digest in read}


def _settings(
    config: ReadaptConfig,
    champion: ModelRef | None,
    new: Sequence[Registered],
    earlier: Sequence[Registered],
    number: int,
) -> dict[str, Any]:
    settings = config.adapt.model_dump(mode="json")
    goes_on = champion is not None and config.start == "champion"
    if champion is not None and goes_on:
        settings["base"]["model"] = champion.path
    elif earlier:
        new, earlier = [*earlier, *new], []
    settings["name"] = f"{config.name}-{number}"
    replayed = [each.source.model_dump(mode="json") | {"pool": "general"} for each in earlier]
    others = [source for source in settings["curation"]["sources"] if source["pool"] != "domain"]
    settings["curation"]["sources"] = [*(each.source.model_dump(mode="json") for each in new), *replayed, *others]
    if replayed:
        settings["mixture"]["weights"]["general"] += config.replay_weight
    general = [task for task in settings["evaluate"]["tasks"] if task["group"] == "general"]
    settings["evaluate"]["tasks"] = [*_dumped(new, "domain"), *_dumped(earlier, "general"), *general]
    settings["evaluate"]["headline_domain"] = new[-1].tasks[0].name
    return settings


def _dumped(deliveries: Sequence[Registered], group: str) -> list[dict[str, Any]]:
    return [task.model_dump(mode="json") | {"group": group} for each in deliveries for task in each.tasks]
