"""Training: data, trainer, checkpoints and continual pre-training."""
