"""Format alignment: select a few general samples, then train SFT and DPO with the chat template."""
