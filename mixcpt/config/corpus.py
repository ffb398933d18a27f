"""A single corpus, as `mixcpt corpus add` registers it for the next round of re-adaptation."""

from pydantic import Field, model_validator

from mixcpt.config.base import Settings, require_unique
from mixcpt.config.evaluate import BitsPerByteTask, Task
from mixcpt.config.sources import Source


class CorpusConfig(Settings):
    """Documents of a domain, and questions about them."""

    source: Source
    """Source of the documents, with pool domain; its name is the name of the corpus."""
    tasks: tuple[Task, ...] = ()
    """Questions about the documents, with group domain. Bits per byte of the held-out documents is always measured;
    empty measures nothing else."""
    note: str = Field("", max_length=1000)
    """Note about the origin of the corpus, shown in the lineage; must not contain secrets."""

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.source.name

    @model_validator(mode="after")
    def _check(self) -> "CorpusConfig":
        if self.source.pool != "domain":
            raise ValueError(f"source.pool is {self.source.pool}: a corpus contains new knowledge, set pool to domain")
        for task in self.tasks:
            if task.group != "domain":
                raise ValueError(f"the task {task.name} has group {task.group}: set group to domain")
            if isinstance(task, BitsPerByteTask) and not task.path:
                raise ValueError(f"the task {task.name} measures held-out documents, which is always done: remove it")
        require_unique("task names", [task.name for task in self.tasks])
        return self
