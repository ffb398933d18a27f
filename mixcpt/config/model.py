"""Which model is adapted."""

from mixcpt.config.base import Settings

CLOSED_WORLD_BASE = "closed-world"
"""The name under which the small base model that ships with mixcpt is asked for."""


class BaseModelConfig(Settings):
    """The starting checkpoint."""

    model: str = CLOSED_WORLD_BASE
    """A local folder, the id of a model on the Hugging Face hub, or `closed-world`: the small one that ships along."""

    revision: str = ""
    """Commit or tag of a hub model; a fixed one makes runs repeatable."""

    chat_template: str = ""
    """Chat form for a model that has none: `plain` (User: / Assistant:), `chatml`, or the path of a Jinja file.
    Empty: the model's own."""
