"""Plans the next round: its corpora, the model that it starts from, and its evaluation tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from mixcpt.config import AdaptConfig, BitsPerByteTask, CorpusConfig, CurationConfig, ReadaptConfig
from mixcpt.curation.sources import open_sources
from mixcpt.rounds.registration import Delivery, NothingNew, list_deliveries, register
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.lineage import Catalogue
from mixcpt.store.models import ModelRef


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """The plan of one round."""

    number: int
    config: AdaptConfig
    new: tuple[str, ...]
    """Corpora that the round learns."""
    earlier: tuple[str, ...]
    """Corpora that the start model has learned, or that a round from the base learns again."""
    tasks: dict[str, tuple[str, ...]]
    """Task names by corpus; the empty name has the tasks that are about no corpus."""

    def tasks_about(self, corpora: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the tasks about some corpora."""
        return tuple(chain.from_iterable(self.tasks[corpus] for corpus in corpora))


def register_own(config: AdaptConfig, store: ArtifactStore) -> None:
    """Register the domain sources of the settings; a source may have more documents than in the last round."""
    questions = tuple(
        task
        for task in config.evaluate.tasks
        if task.group == "domain" and not (isinstance(task, BitsPerByteTask) and not task.path)
    )
    sources = [source for source in config.curation.sources if source.pool == "domain"]
    for index, source in enumerate(sources):
        # the first source gets all questions, so that each is evaluated once
        corpus = CorpusConfig(source=source, tasks=questions if index == 0 else ())
        try:
            register(corpus, store, heldout_fraction=config.curation.heldout_fraction, seed=config.data_seed)
        except NothingNew:
            continue


def plan_round(
    config: ReadaptConfig, champion: ModelRef | None, refused: Sequence[str], number: int, store: ArtifactStore
) -> RoundPlan | None:
    """Return the plan of the next round; None if every registered corpus has been learned or refused.

    Args:
        champion: The served model; None before the first round.
        refused: Names of corpora whose candidate was refused; no round tries them again automatically.
        number: Number of the round, from 1.
    """
    deliveries = list_deliveries(store)
    learned = _learned(deliveries, champion, store)
    new = [delivery for delivery in deliveries if delivery.name not in {*learned, *refused}]
    if not new:
        return None
    earlier = [delivery for delivery in deliveries if delivery.name in learned]
    settings = _settings(config, champion, new, earlier=earlier, number=number)
    tasks = {delivery.name: tuple(task.name for task in delivery.tasks) for delivery in (*new, *earlier)}
    general = tuple(task.name for task in config.adapt.evaluate.tasks if task.group == "general")
    return RoundPlan(
        number=number,
        config=AdaptConfig.model_validate(settings),
        new=tuple(delivery.name for delivery in new),
        earlier=tuple(delivery.name for delivery in earlier),
        tasks={**tasks, "": general},
    )


def _learned(deliveries: Sequence[Delivery], champion: ModelRef | None, store: ArtifactStore) -> set[str]:
    """Return the names of the corpora in the champion's training data, compared by their content."""
    if champion is None:
        return set()
    catalogue = Catalogue(store)
    artifact = catalogue.find(champion.digest)
    digests = set(catalogue.texts_read(artifact).values()) if artifact else set()
    sources = open_sources(CurationConfig(sources=tuple(delivery.source for delivery in deliveries)))
    return {source.config.name for source in sources if source.digest in digests}


def _settings(
    config: ReadaptConfig,
    champion: ModelRef | None,
    new: Sequence[Delivery],
    *,
    earlier: Sequence[Delivery],
    number: int,
) -> dict[str, Any]:
    """Return the settings of the round's adaptation, as JSON values."""
    settings = config.adapt.model_dump(mode="json")
    if champion is not None and config.start == "champion":
        settings["base"]["model"] = champion.path
    elif earlier:
        # a round from the base learns everything again
        new, earlier = [*earlier, *new], []
    settings["name"] = f"{config.name}-{number}"
    learned = [delivery.source.model_dump(mode="json") for delivery in new]
    replayed = [delivery.source.model_dump(mode="json") | {"pool": "general"} for delivery in earlier]
    others = [source for source in settings["curation"]["sources"] if source["pool"] != "domain"]
    settings["curation"]["sources"] = [*learned, *replayed, *others]
    if replayed:
        settings["mixture"]["weights"]["general"] += config.replay_weight
    general = [task for task in settings["evaluate"]["tasks"] if task["group"] == "general"]
    settings["evaluate"]["tasks"] = [*_tasks(new, "domain"), *_tasks(earlier, "general"), *general]
    settings["evaluate"]["headline_domain"] = new[-1].tasks[0].name
    return settings


def _tasks(deliveries: Sequence[Delivery], group: str) -> list[dict[str, Any]]:
    tasks = chain.from_iterable(delivery.tasks for delivery in deliveries)
    return [task.model_dump(mode="json") | {"group": group} for task in tasks]
