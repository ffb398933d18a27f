"""Distillation: objectives, target transforms and the fused loss."""
