"""Estimates of the cost of a run before it starts: tokens, operations, memory, disk and time; imports no torch."""
