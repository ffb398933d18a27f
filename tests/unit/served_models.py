"""Chats with models that answer in a known way."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixcpt.config import CLOSED_WORLD_BASE, BaseModelConfig
from mixcpt.serving.chat import Chat
from mixcpt.store.models import ModelRef, resolve_model

CLOSED_WORLD = BaseModelConfig(model=CLOSED_WORLD_BASE)


def new_chat(chat: Chat, **settings: Any) -> Chat:
    """Return a new conversation with a loaded model."""
    return replace(chat, messages=[], notes=[], **settings)


def answer(chat: Chat, question: str) -> str:
    return "".join(chat.ask(question))


def copied(model: ModelRef, folder: Path, chat_template: str | None = None) -> ModelRef:
    """Return a copy of a model with another chat template; an empty one removes the template."""
    shutil.copytree(model.path, folder, copy_function=shutil.copy)
    if chat_template is not None:
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        if chat_template:
            (folder / "chat_template.jinja").write_text(chat_template)
    return resolve_model(BaseModelConfig(model=str(folder)))
