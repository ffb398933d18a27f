"""Base model that a run adapts."""

from mixcpt.config.base import Settings

CLOSED_WORLD_BASE = "closed-world"
"""Name of the small base model that ships with mixcpt."""


class BaseModelConfig(Settings):
    """Base model that a run adapts."""

    model: str = CLOSED_WORLD_BASE
    """Base model: a local folder, a model id on the Hugging Face hub, or `closed-world` (the small model that ships
    with mixcpt)."""

    revision: str = ""
    """Commit or tag of a hub model; empty means the newest. A fixed revision makes runs repeatable."""

    chat_template: str = ""
    """Chat format for a model without one: `plain` (User: / Assistant:), `chatml`, or the path of a Jinja file. Empty
    means the model's own."""
