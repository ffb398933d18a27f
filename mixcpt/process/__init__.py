"""Processes and devices: supervision, GPU locks, and process metrics."""
