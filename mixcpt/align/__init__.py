"""Format alignment: select a few general samples, then train SFT and DPO with the chat template."""

from mixcpt.align.finetune import dpo, sft
from mixcpt.align.selection import select

__all__ = ["dpo", "select", "sft"]
