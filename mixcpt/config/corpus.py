"""A corpus on its own: what `mixcpt corpus add` registers for the next re-adaptation."""

from pydantic import Field, model_validator

from mixcpt.config.base import Settings
from mixcpt.config.evaluate import BitsPerByteTask, Task
from mixcpt.config.sources import Source


class CorpusConfig(Settings):
    """Documents of a domain, and what may be asked about them."""

    source: Source
    """Where the documents are; its name is the corpus' name, its pool is domain."""
    tasks: tuple[Task, ...] = ()
    """Questions about the documents, of group domain. Bits per byte of what is held out of them is always measured."""
    note: str = Field("", max_length=1000)
    """Why it is here, for whoever reads the lineage; no secret, for it is shown."""

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.source.name

    @model_validator(mode="after")
    def _check(self) -> "CorpusConfig":
        if self.source.pool != "domain":
            raise ValueError(f"source.pool is {self.source.pool}: a corpus is something to learn, its pool is domain")
        for task in self.tasks:
            if task.group != "domain":
                raise ValueError(f"the task {task.name} has group {task.group}: questions about a corpus have domain")
            if isinstance(task, BitsPerByteTask) and not task.path:
                raise ValueError(f"the task {task.name} measures held-out documents, which is done without being asked")
        names = [task.name for task in self.tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"task names must differ; given twice: {', '.join(twice)}")
        return self
