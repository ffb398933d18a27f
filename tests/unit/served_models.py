"""Models that answer in a known way, for the tests of chat and export."""

import shutil
from pathlib import Path
from typing import Any

from mixcpt.config import CLOSED_WORLD_BASE, BaseModelConfig
from mixcpt.serving.conversation import Conversation, Form
from mixcpt.serving.speaker import Sampling, Speaker
from mixcpt.store.models import ModelRef, resolve_model

CLOSED_WORLD = BaseModelConfig(model=CLOSED_WORLD_BASE)


def talk(speaker: Speaker, form: Form = "chat", system: str = "", **sampling: Any) -> Conversation:
    return Conversation(speaker, form, Sampling(**sampling), system)


def said(conversation: Conversation, question: str) -> str:
    """The answer, which is what was told piece by piece."""
    pieces: list[str] = []
    answer = conversation.ask(question, pieces.append).answer
    assert "".join(pieces) == answer.text
    return answer.text


def copied(model: ModelRef, folder: Path, chat_template: str | None = None) -> ModelRef:
    """The model with another chat template; without any where it is empty."""
    shutil.copytree(model.path, folder, copy_function=shutil.copy)
    if chat_template is not None:
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        if chat_template:
            (folder / "chat_template.jinja").write_text(chat_template)
    return resolve_model(BaseModelConfig(model=str(folder)))
