"""Processes and devices: supervision, GPU locks, and the resources that a process tree uses."""
