"""The keys of a selection and of the models after SFT and DPO, computed without torch and transformers."""

from mixcpt.align.chat import template_digest
from mixcpt.config import DpoConfig, SelectionConfig, SftConfig
from mixcpt.store.artifacts import ArtifactRef, StageKey
from mixcpt.store.models import ModelRef

_SELECTION_VERSION = 1
_FINETUNING_VERSION = 2


def selection_key(
    config: SelectionConfig, corpus: ArtifactRef, model: ModelRef, chat_template: str, *, seed: int
) -> StageKey:
    """Return the key of a selection."""
    return StageKey(
        kind="selection",
        version=_SELECTION_VERSION,
        settings={"config": config, "seed": seed, "chat_template": template_digest(model, chat_template)},
        inputs={"corpus": corpus.digest, "model": model.digest},
    )


def finetuning_key(
    config: SftConfig | DpoConfig, selection: ArtifactRef, model: ModelRef, chat_template: str, *, seed: int
) -> StageKey:
    """Return the key of `model` after SFT or DPO."""
    stage = "sft" if isinstance(config, SftConfig) else "dpo"
    template = template_digest(model, chat_template)
    return StageKey(
        kind="model",
        version=_FINETUNING_VERSION,
        settings={"stage": stage, "config": config, "seed": seed, "chat_template": template},
        inputs={"selection": selection.digest, "model": model.digest},
    )
